# SPDX-License-Identifier: Apache-2.0
"""Run the `finetree` command; every error becomes one message and an exit code."""

import dataclasses
import difflib
import itertools
import os
import re
import sys
import traceback
import uuid
from collections.abc import Sequence

import click

from finetree_cli.app import cli
from finetree_cli.errors import CliError, ExitCode, Failure, of_cli_error
from finetree_cli.options.command import Settings
from finetree_cli.output import Output

DEBUG = "FINETREE_DEBUG"
"""Environment variable that shows the stack trace of an unexpected error."""
FIRST_STEPS = (
    "begin with `finetree demo`, or with `finetree recommend --model llama-3.1-8b --gpu rtx-4090`; "
    "`finetree --help` says what each command does"
)
"""What to type next for somebody who has typed the program's name alone."""
SAME: dict[str, tuple[str, ...]] = {
    "rm": ("delete",),
    "remove": ("delete", "rm"),
    "delete": ("rm",),
    "ls": ("list",),
    "get": ("show",),
    "describe": ("show",),
    "stop": ("cancel",),
    "log": ("logs",),
    "run": ("train",),
    "fit": ("train",),
}
"""Commands of other programs, and those that a group may have in their place."""
SIGPIPE_EXIT = 141
"""Exit code that a shell reports for a program whose reader has closed the pipe."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its exit code."""
    # gRPC logs to stderr on its own; its errors reach the user through the SDK.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    raise SystemExit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    given = Settings(arguments=tuple(arguments))
    try:
        result = cli.main(arguments, prog_name="finetree", standalone_mode=False, obj=given)
        sys.stdout.flush()
        return result if isinstance(result, int) else ExitCode.OK
    except (BrokenPipeError, SystemExit):  # click turns the first into the second
        # The reader has closed the pipe; Python would report that again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SIGPIPE_EXIT
    except (click.Abort, KeyboardInterrupt, Exception) as error:  # noqa: BLE001 - no user sees a stack trace
        return _show(_failure(error, given.command), arguments)


def _failure(error: BaseException, command: click.Command | None) -> Failure:
    """Convert an exception to what is printed, in the words of the command that ran."""
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return Failure(ExitCode.INTERRUPTED, "interrupted", "INTERRUPTED")
    if isinstance(error, click.ClickException):
        return _of_usage(error)
    return of_cli_error(error) if isinstance(error, CliError) else _of_exception(error, command)


def _in_flags(failure: Failure, command: click.Command) -> Failure:
    """Name options and commands in place of the contract's fields and rpcs."""
    from finetree_cli.options.flag_names import in_flags

    message = in_flags(failure.message, command)
    # A remedy only names the command that the message then names too.
    named = failure.remedy.split("`")[1:2]
    remedy = "" if named and f"`{named[0]}`" in message else failure.remedy
    details = tuple(in_flags(line, command) for line in failure.details)
    return dataclasses.replace(failure, message=message, details=details, remedy=remedy)


def _show(failure: Failure, arguments: list[str]) -> int:
    out = Output(json=_wants_json(arguments))
    for line in failure.lines():
        out.say(line)
    if out.json and not failure.reported:
        out.line(failure.document())  # on one line: it may be the last of a stream
    return failure.exit_code


def _wants_json(arguments: list[str]) -> bool:
    """Tell whether errors are printed as JSON; looks at the words, since parsing them may have failed."""
    pairs = {f"{word}={value}" for word, value in itertools.pairwise(arguments)}
    return "--json" in arguments or "--output=json" in {*arguments, *pairs}


def _of_usage(error: click.ClickException) -> Failure:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "finetree"
    message = re.sub(
        r"\s*\n\s*", " ", error.format_message()
    )  # click writes the values of a choice on lines of their own
    if isinstance(error, click.NoSuchOption) and context is not None:
        from finetree_cli.options.flag_names import MEANT

        options = {word for parameter in context.command.params for word in parameter.opts}
        if meant := [word for word in MEANT.get(error.option_name, ()) if word in options]:
            message = f"No such option '{error.option_name}'. Did you mean '{meant[0]}'?"
    if isinstance(error, click.UsageError) and message.startswith("No such command") and "Did you mean" not in message:
        message += _nearest_command(error)  # click knows the names of groups that are loaded whole alone
    if isinstance(error, click.exceptions.NoArgsIsHelpError):  # its message is the whole help text
        known = error.ctx.command.list_commands(error.ctx) if isinstance(error.ctx.command, click.Group) else []
        message = f"{command} needs a command: {', '.join(known)}"
        if error.ctx.parent is None:
            return Failure(ExitCode.USAGE, message, "USAGE", FIRST_STEPS)
    return Failure(ExitCode.USAGE, message, "USAGE", f"`{command} --help` shows its use")


def _nearest_command(error: click.UsageError) -> str:
    """Name the command that is most like the one that there is none of."""
    context = error.ctx
    named = re.search(r"'(.*)'", error.message)
    if context is None or named is None or not isinstance(context.command, click.Group):
        return ""
    known = context.command.list_commands(context)
    nearest = [word for word in SAME.get(named[1], ()) if word in known] or difflib.get_close_matches(
        named[1], known, n=1
    )
    return f" Did you mean '{nearest[0]}'?" if nearest else ""


def _of_exception(error: BaseException, command: click.Command | None) -> Failure:
    # An exception of the SDK implies that the SDK is loaded: it need not be imported to check.
    sdk = sys.modules.get("finetree.errors")
    if sdk is not None and isinstance(error, sdk.FinetreeError):
        from finetree_cli.errors import of_service_error

        failure = of_service_error(error)
        return failure if command is None else _in_flags(failure, command)
    error_id = uuid.uuid4().hex[:12]
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    remedy = f"run it again with {DEBUG}=1 for the stack trace, and report it with error id {error_id}"
    message = f"unexpected {type(error).__name__}: this is a bug in finetree"
    return Failure(ExitCode.INTERNAL, message, "INTERNAL", remedy, fields={"error_id": error_id})


if __name__ == "__main__":
    main()
