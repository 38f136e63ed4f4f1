# SPDX-License-Identifier: Apache-2.0
"""Modules that a command does not import: each takes time that a pipeline waits for."""

import subprocess
import sys

JOB = """\
model: {name: llama-3.1-8b}
lora: {rank: 16}
hardware: {accelerator: a100-80gb}
dataset: {profile: {examples: 1000, total_tokens: 200000}}
"""
HELP = {"grpc", "google.protobuf", "rich", "yaml", "finetree_api", "pycountry", "asyncio", "importlib.metadata"}
CHECK = {
    "grpc",
    "rich",
    "asyncio",
    "finetree._sync",
    "finetree._async",
    "importlib.metadata",
    "pycountry",
    "PIL",
    "torch",
}


def imported(names: set[str], words: list[str], stdin: str = "") -> tuple[str, list[str]]:
    """Exit code of a command, and which of the modules it has imported."""
    code = (
        "import sys\n"
        "from finetree_cli.__main__ import run\n"
        f"code = run({words!r})\n"
        f"print(code, *sorted(name for name in {sorted(names)!r} if name in sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=stdin, capture_output=True, text=True, check=True, timeout=120
    )
    exit_code, *found = done.stderr.splitlines()[-1].split()
    return exit_code, found


def test_help_imports_little():
    assert imported(HELP, ["--help"]) == ("0", [])


def test_a_local_check_imports_no_client_and_no_terminal_library():
    words = ["check", "-", "--max-hours", "1000", "--fits"]
    assert imported(CHECK, [*words, "--output", "json"], JOB) == ("0", [])
    assert imported(CHECK, words, JOB) == ("0", [])
