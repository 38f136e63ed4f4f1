# SPDX-License-Identifier: Apache-2.0
"""The runtime's program for access files, as a child process: clients never import services."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetree_cli.errors import BadInput, CliError, NotAvailable

PROGRAM = "finetree_runtime.server.access"


def ask(access_dir: Path, words: Sequence[str]) -> dict[str, Any]:
    """Run a command of the program on the access file in a folder, and return its answer.

    Raises:
        NotAvailable: The services are not installed here.
        BadInput: The command cannot be done; nothing was changed.
    """
    if importlib.util.find_spec("finetree_runtime") is None:
        raise NotAvailable(
            "the access file is the services', and none of them is installed here",
            remedy="pip install 'finetree-cli[local]', or run this on the server",
            reason="SUITE_NOT_INSTALLED",
        )
    # -P: a module in the current folder must not be imported in place of a library.
    command = [sys.executable, "-P", "-m", PROGRAM, words[0], f"--access-dir={access_dir}", *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    reason, _, text = last.partition(": ")
    if done.returncode == BadInput.exit_code and reason.replace("_", "").isupper():
        raise BadInput(text, reason=reason)
    raise CliError(f"the program for access files ended with exit code {done.returncode}: {last}")
