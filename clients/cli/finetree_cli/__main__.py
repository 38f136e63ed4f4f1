# SPDX-License-Identifier: Apache-2.0
"""The `finetree` command: runs it and turns whatever goes wrong into one clear message and an exit code."""

import itertools
import os
import sys
import traceback
import uuid
from collections.abc import Sequence

import click

from finetree_cli.app import cli
from finetree_cli.errors import CliError, ExitCode, Failure, of_cli_error
from finetree_cli.output import Output

DEBUG = "FINETREE_DEBUG"
"""Environment variable that shows the stack of an unexpected error."""
SIGPIPE_EXIT = 141
"""What a shell reports for a program whose reader went away."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    # gRPC's own lines on stderr are no talk for people; its errors reach the user through the SDK.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    raise SystemExit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run the command line; its exit code."""
    try:
        result = cli.main(arguments, prog_name="finetree", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else ExitCode.OK
    except (BrokenPipeError, SystemExit):  # click turns the first into the second
        # The reader has seen enough. Python would complain once more while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SIGPIPE_EXIT
    except (click.Abort, KeyboardInterrupt, Exception) as error:  # noqa: BLE001 - no user ever sees a stack
        return _show(_failure(error), arguments)


def _failure(error: BaseException) -> Failure:
    """What went wrong, as it is shown."""
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return Failure(ExitCode.INTERRUPTED, "interrupted", "INTERRUPTED")
    if isinstance(error, click.ClickException):
        return _of_usage(error)
    return of_cli_error(error) if isinstance(error, CliError) else _of_exception(error)


def _show(failure: Failure, arguments: list[str]) -> int:
    out = Output(json=_wants_json(arguments))
    for line in failure.lines():
        out.say(line)
    if out.json and not failure.told:
        out.line(failure.document())  # on one line: it may be the last of a stream
    return failure.exit_code


def _wants_json(arguments: list[str]) -> bool:
    """Whether errors are objects too; asked of the words, since these may be what is wrong."""
    pairs = {f"{word}={value}" for word, value in itertools.pairwise(arguments)}
    return "--json" in arguments or "--output=json" in {*arguments, *pairs}


def _of_usage(error: click.ClickException) -> Failure:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "finetree"
    message = error.format_message()
    if isinstance(error, click.exceptions.NoArgsIsHelpError):  # whose message is the whole help
        known = error.ctx.command.list_commands(error.ctx) if isinstance(error.ctx.command, click.Group) else []
        message = f"{command} needs a command: {', '.join(known)}"
    return Failure(ExitCode.USAGE, message, "USAGE", f"see `{command} --help`")


def _of_exception(error: BaseException) -> Failure:
    # Only an exception that came out of the SDK can be one of its own: it need not be loaded to ask.
    sdk = sys.modules.get("finetree.errors")
    if sdk is not None and isinstance(error, sdk.FinetreeError):
        from finetree_cli.errors import of_service_error

        return of_service_error(error)
    error_id = uuid.uuid4().hex[:12]
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    remedy = f"run it again with {DEBUG}=1 to see where, and report it with error id {error_id}"
    message = f"unexpected {type(error).__name__}; this is our fault"
    return Failure(ExitCode.INTERNAL, message, "INTERNAL", remedy, fields={"error_id": error_id})


if __name__ == "__main__":
    main()
