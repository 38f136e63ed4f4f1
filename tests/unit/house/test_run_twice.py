# SPDX-License-Identifier: Apache-2.0
"""tests/run_twice.py: tests that fail by chance pass alone and are named; what fails again, or is cut short, fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "run_twice.py"
GOOD = "def test_good(): pass\n"
ALWAYS = "def test_always(): assert False\n"
ONCE = """
from pathlib import Path

def test_once():
    seen = Path(__file__).with_name("seen")
    if not seen.exists():
        seen.touch()
        assert False
"""
CUT_SHORT = """
import os

def test_of_the_second_run(): os._exit(3)
"""


def run(folder: Path, *options: str, **files: str) -> tuple[int, list[str]]:
    """Run files of tests in a folder: the exit code, and the lines that are not pytest's."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    done = subprocess.run(
        [sys.executable, PROGRAM, *options, "--rootdir", ".", "."],
        cwd=folder,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, [line for line in done.stdout.splitlines() if line.startswith(("== ", "!! "))]


def test_what_fails_once_passes_and_is_named(tmp_path):
    code, lines = run(tmp_path, "-p", "xdist", "-n", "2", test_a=GOOD + ONCE, test_b=GOOD)
    assert code == 0
    assert lines == [
        "== 1 failed: once more, alone",
        "!! test_a.py::test_once: failed ONCE, PASSED ALONE: look at it",
    ]


def test_what_fails_twice_fails_beside_what_fails_once(tmp_path):
    code, lines = run(tmp_path, test_a=GOOD + ONCE, test_b=ALWAYS)
    assert code == 1
    assert lines[1:] == [
        "!! test_a.py::test_once: failed ONCE, PASSED ALONE: look at it",
        "!! test_b.py::test_always: failed TWICE",
    ]


def test_all_pass_without_a_second_run(tmp_path):
    assert run(tmp_path, test_a=GOOD) == (0, [])


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({f"test_{name}": ALWAYS for name in "abcdef"}, pytest.ExitCode.TESTS_FAILED),
        ({"test_a": GOOD, "test_b": "import missing\n"}, pytest.ExitCode.INTERRUPTED),
        ({}, pytest.ExitCode.NO_TESTS_COLLECTED),
    ],
    ids=["more than five", "not collected", "no test"],
)
def test_what_is_not_chance_is_not_run_again(tmp_path, files, code):
    assert run(tmp_path, **files) == (code, [])


def test_a_second_run_that_is_cut_short_fails(tmp_path):
    code, lines = run(tmp_path, "-p", "xdist", "-n", "1", "--max-worker-restart", "0", test_a=CUT_SHORT)
    assert code == 3
    assert lines[1:] == [
        "!! pytest did not come to the end of test_a.py::test_of_the_second_run: it ended with 3",
    ]
