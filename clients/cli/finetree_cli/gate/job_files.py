# SPDX-License-Identifier: Apache-2.0
"""The job files of a check: those that are named, those of folders and globs, or all of the repository."""

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetree_cli.errors import BadInput
from finetree_cli.jobfile.job import STDIN, JobFile, parse_job, read_text

NAMES = ("finetree.yaml", "finetree.yml")
"""Names of job files that a folder is searched for."""
SUFFIXES = (".finetree.yaml", ".finetree.yml")
"""Ends of such names."""
NAMED = 3
"""Most job files that a message names."""
SKIPPED = frozenset(("node_modules", "__pycache__"))
"""Folders that are not searched, beside those whose name begins with a dot."""


@dataclass(frozen=True, slots=True)
class ReadJob:
    """A job file as it was read, or why it could not be."""

    file: str
    """Name in the report: a relative path with slashes where it was given so."""
    sha256: str
    """Of its text; empty where it could not be read."""
    job: JobFile | BadInput


def find_job_files(
    paths: Sequence[str],
    *,
    named: Iterable[str] = (),
    policy_file: str = "",
    below: str = ".",
    needed: bool = True,
) -> list[str]:
    """Return the job files of files, folders and globs, in their order and each once.

    Args:
        paths: what the user gave; "-" is the standard input. Without any, the files that match `named`, or else those
            below a folder.
        named: globs of the policy.
        policy_file: the policy file, which is no job file even if a glob of it matches; empty without one.
        below: the folder that is searched where nothing is named; the current one.
        needed: whether nothing found is an error.

    Raises:
        BadInput: Nothing was found and something is needed, or a folder or glob that was given has no job file.
    """
    if not paths:
        found = [file for pattern in named for file in _matching(pattern) if not _is_same(file, policy_file)]
        found = found or _inside(below)
        if not found and needed:
            remedy = "name the job files, or call them finetree.yaml or NAME.finetree.yaml"
            raise BadInput("no job file below the current folder", remedy=remedy, reason="JOB_FILES_NOT_FOUND")
        return list(dict.fromkeys(found))
    return list(dict.fromkeys(file for path in paths for file in _of_path(path)))


def read_jobs(files: Iterable[str], *, given: Iterable[str] = ()) -> Iterator[ReadJob]:
    """Read job files one by one; a file that is no job does not stop the rest.

    A job that does not train takes nothing that could be checked: it is left out, unless its file was `given` by name.
    """
    by_name = {Path(path).as_posix() for path in given}
    for name in files:
        sha256 = ""
        job: JobFile | BadInput
        file = "<stdin>" if name == STDIN else name
        try:
            file, text = read_text(name)
            sha256 = hashlib.sha256(text.encode()).hexdigest()
            job = parse_job(text, file)
            if job.template.WhichOneof("task") not in ("train", None) and name not in by_name:
                continue
            _ = job.spec  # refused for a job that does not train
        except BadInput as error:
            if name != STDIN and not Path(name).exists():
                error.remedy = _remedy_of_missing()
            job = error
        yield ReadJob(file, sha256, job)


def _remedy_of_missing() -> str:
    """Name job files that are there, for a name that no file has."""
    found = _inside(".")
    if not found:
        return "no job file is below the current folder; `finetree recommend --output job.yaml` writes a job file"
    named = ", ".join(found[:NAMED]) + (f" and {len(found) - NAMED} more" if len(found) > NAMED else "")
    verb = "is" if len(found) == 1 else "are"
    return f"below the current folder there {verb} {named}; without names, `finetree check` looks for job files itself"


def _is_same(file: str, other: str) -> bool:
    return bool(other) and Path(file).absolute() == Path(other).absolute()


def _of_path(path: str) -> list[str]:
    if path == STDIN:
        return [path]
    if Path(path).is_dir():
        found = _inside(path)
        problem = f"{path}: no job file in this folder"
    elif glob.has_magic(path) and not Path(path).exists():
        found = _matching(path)
        problem = f"{path}: matches no file"
    else:
        return [Path(path).as_posix()]
    if not found:
        remedy = f"job files in folders are called {NAMES[0]} or NAME{SUFFIXES[0]}"
        raise BadInput(problem, remedy=remedy, reason="JOB_FILES_NOT_FOUND")
    return found


def _matching(pattern: str) -> list[str]:
    found = glob.iglob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    return sorted(Path(file).as_posix() for file in found if Path(file).is_file())


def _inside(folder: str) -> list[str]:
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in SKIPPED]
        found += [Path(root, name).as_posix() for name in files if name in NAMES or name.endswith(SUFFIXES)]
    return sorted(found)
