# SPDX-License-Identifier: Apache-2.0
"""Seeded bugs: patches that break a promise, each of which a named test must notice.

`python tests/robustness/seeded_bugs.py [NAME …]` applies one patch of `seeded/` at a time to a copy of the services and
runs its test against the copy; it ends with 1 where a bug was not caught. The text before a patch says what it breaks
and which test catches it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = ("services/trainer/control", "services/trainer/worker", "services/trainer/data")
"""Folders that are copied, and come before the installed ones."""
CAUGHT_BY = "Caught by: "


@dataclass(frozen=True, slots=True)
class Seeded:
    """A bug: what it breaks, the test that notices it, the patch that makes it."""

    name: str
    what: str
    test: str
    patch: Path


def seeded() -> list[Seeded]:
    """Every bug, by name."""
    found = []
    for patch in sorted((HERE / "seeded").glob("*.patch")):
        what, test, *_ = patch.read_text(encoding="utf-8").splitlines()
        assert test.startswith(CAUGHT_BY), patch.name
        found.append(Seeded(patch.stem, what, test.removeprefix(CAUGHT_BY), patch))
    return found


def copy(folder: Path) -> None:
    """Copy what the patches change."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))


def apply(bug: Seeded, folder: Path) -> None:
    """Make a bug in a copy. Raises CalledProcessError where the patch does not fit any more."""
    command = ["git", "apply", "--whitespace=nowarn", str(bug.patch)]
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)


def is_caught(bug: Seeded) -> bool:
    """Run a bug's test against a copy that has the bug; return whether it fails, as it should."""
    with tempfile.TemporaryDirectory(prefix="seeded-") as temporary:
        folder = Path(temporary)
        copy(folder)
        apply(bug, folder)
        path = os.pathsep.join(str(folder / package) for package in PACKAGES)
        command = [sys.executable, "-m", "pytest", "--quiet", "-x", "--tb=no", "-p", "no:cacheprovider", bug.test]
        environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        ended = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    if ended.returncode not in (0, 1):  # neither passed nor failed
        sys.stderr.write(ended.stdout + ended.stderr)
    return ended.returncode == 1


def main(names: list[str]) -> int:
    """Try the bugs of these names, or all."""
    missed = []
    for bug in seeded():
        if names and bug.name not in names:
            continue
        caught = is_caught(bug)
        missed += [] if caught else [bug.name]
        print(f"{'caught' if caught else 'MISSED'}  {bug.name}: {bug.what}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
