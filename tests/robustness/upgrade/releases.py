# SPDX-License-Identifier: Apache-2.0
"""Releases of the trainer and the worker, built from their sources, each in an environment of its own."""

import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PREVIOUS = "2e0a78d1"
"""The last commit that `make release` made the baseline of the contract: what users have. Change it with a release."""
UV = ROOT / ".bootstrap" / "bin" / "uv"
_NEEDED = ("protos", "services/runtime", "services/trainer/data", "clients/python", "services/trainer/control")
_WORKER = "services/trainer/worker"


@dataclass(frozen=True, slots=True)
class Release:
    """An installed release."""

    name: str
    python: Path


def install(folder: Path, *, commit: str = "") -> Release:
    """Build and install a release of this repository: of a commit, or of the working tree as it is.

    The worker comes without its training libraries, which a scripted training does not import: torch alone is larger
    than everything else.
    """
    name = commit or "this tree"
    sources = _sources(folder, commit)
    python = folder / "bin" / "python"
    _run(UV, "venv", "--quiet", "--clear", "--python", sys.executable, folder)
    packages = [str(sources / each) for each in _NEEDED]
    # Not in place: what is installed is what a wheel has.
    flags = ("pip", "install", "--quiet", "--no-sources", "--python", python)
    _run(UV, *flags, *packages)
    _run(UV, *flags, "--no-deps", str(sources / _WORKER))
    return Release(name, python)


def _sources(folder: Path, commit: str) -> Path:
    if not commit:
        return ROOT
    target = Path(tempfile.mkdtemp(prefix="sources-", dir=folder.parent))
    with tempfile.TemporaryFile() as archive:
        subprocess.run(["git", "-C", str(ROOT), "archive", commit], stdout=archive, check=True)
        archive.seek(0)
        with tarfile.open(fileobj=archive) as tar:
            tar.extractall(target, filter="data")
    return target


def _run(*command: object) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    subprocess.run([str(word) for word in command], env=environment, check=True)
