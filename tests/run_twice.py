# SPDX-License-Identifier: Apache-2.0
"""Run pytest; where few tests fail, run those once more, alone, and pass if they do (docs/decisions/0079).

python tests/run_twice.py OPTION... FOLDER...: the arguments are pytest's. The second run takes none of them: its tests
run one after another in one process, with nothing beside it.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

MOST = 5
"""Failed tests that are run again: more have a cause that is not chance."""


def run(cache: Path, *arguments: str) -> tuple[int, list[str]]:
    """Run pytest with an empty cache of its own; its exit code and the ids of what failed."""
    command = [sys.executable, "-m", "pytest", "-o", f"cache_dir={cache}", *arguments]
    code = subprocess.run(command, check=False).returncode
    # What failed, in tests and in collecting them, is in the controller's cache, whichever process it failed in.
    failed = cache / "v" / "cache" / "lastfailed"
    return code, [*json.loads(failed.read_text(encoding="utf-8"))] if failed.exists() else []


def main(arguments: list[str]) -> int:
    """Run the tests, and at most MOST failed ones again; an exit code."""
    with tempfile.TemporaryDirectory() as folder:
        code, failed = run(Path(folder) / "first", *arguments)
        # Any other code says that pytest was used wrongly, was interrupted, or found no test.
        if code != pytest.ExitCode.TESTS_FAILED or not 0 < len(failed) <= MOST:
            return code
        print(f"== {len(failed)} failed: once more, alone", flush=True)
        # Ids, not --last-failed: that runs every test where it does not find those that failed.
        code, again = run(Path(folder) / "second", "--quiet", *failed)
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        print(f"!! pytest did not come to the end of {', '.join(failed)}: it ended with {code}")
        return code
    for test in failed:
        print(f"!! {test}: failed {'TWICE' if test in again else 'ONCE, PASSED ALONE: look at it'}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
