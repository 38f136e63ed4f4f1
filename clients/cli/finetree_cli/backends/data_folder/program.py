# SPDX-License-Identifier: Apache-2.0
"""Programs of the installed trainer, which knows its folder, run in child processes."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from finetree_cli.backends.local_process import installed
from finetree_cli.errors import BadInput, CliError, GateFailed, NotAvailable

DAMAGE = ("BACKUP_DAMAGED", "BACKUP_DATABASE_DAMAGED", "BACKUP_DATABASE_TORN", "DATABASE_MOVE_MISMATCH")
"""Reasons that say of files that they are not what they were."""


def run(module: str, words: Sequence[str], on_progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Run `python -m MODULE` and return what it found; `on_progress(done, total)` in bytes.

    Raises:
        NotAvailable: The trainer is not installed.
        BadInput: A folder, or what else was named, cannot be used.
        GateFailed: Something is damaged.
    """
    if not installed("trainer"):
        raise NotAvailable(
            "this is done by the trainer, which is not in this environment",
            remedy=f"pip install 'finetree-cli[suite]', or run python -m {module} where the trainer is",
            reason="TRAINER_NOT_INSTALLED",
        )
    # -P: a module in the current folder must not be imported in place of a library.
    command = [sys.executable, "-P", "-m", module, *words]
    last: dict[str, Any] = {}
    with (
        tempfile.TemporaryFile() as stderr,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            for line in process.stdout:
                last = json.loads(line)
                if on_progress is not None and "progress" in last:
                    on_progress(last["progress"]["done"], last["progress"]["total"])
        except BaseException:
            process.send_signal(signal.SIGKILL)  # what is not complete counts for nothing
            raise
        code = process.wait()
        if "result" in last:
            found: dict[str, Any] = last["result"]
            return found
        stderr.seek(0)
        said = stderr.read().decode("utf-8", "replace").strip()
    if "error" not in last:
        raise CliError(f"the program ended with exit code {code}: {said.rpartition(chr(10))[2] or 'no message'}")
    kind = GateFailed if last["error"]["reason"] in DAMAGE else BadInput
    raise kind(last["error"]["message"], reason=last["error"]["reason"])
