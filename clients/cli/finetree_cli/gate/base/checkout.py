# SPDX-License-Identifier: Apache-2.0
"""The job files of another commit, beside the working tree: no second checkout.

The job files of the commit and the data files that they name are written to a temporary folder under their own paths,
so that everything that reads job files works there as it does here. Data that has not changed, or that git does not
hold, is linked to the working tree's.
"""

import contextlib
import glob
import posixpath
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from finetree_cli.errors import BadInput
from finetree_cli.gate.base.git import Blob, Commit
from finetree_cli.gate.job_files import NAMES, SUFFIXES, find_job_files
from finetree_cli.gate.lock import DEFAULT_FILE as LOCK_FILE
from finetree_cli.jobfile.job import MAX_FILE_BYTES, STDIN, read_job

LFS_POINTER = b"version https://git-lfs"
"""Begin of what git holds in place of a file of its large file storage."""
LFS_POINTER_BYTES = 1024
"""Pointers are shorter than this."""


@dataclass(frozen=True, slots=True)
class Side:
    """The job files of a commit, in a folder of their own."""

    folder: Path
    """Stands for the current folder."""
    files: tuple[str, ...]
    """Job files, relative to it."""
    lock: Path
    """Its lock file; there may be none."""
    renames: Mapping[str, str] = field(default_factory=dict)
    """Name in the commit by present name, of files that have another one now; relative to the current folder."""


@contextlib.contextmanager
def check_out(
    commit: Commit, paths: Sequence[str], *, present: Sequence[str] = (), later: Commit | None = None
) -> Iterator[Side]:
    """Write the commit's job files, their data and the lock file to a temporary folder, which is removed at the end.

    Args:
        commit: the side that is wanted.
        paths: files, folders and globs, relative to the current folder; those that the commit has are looked for.
            Without any, the current folder is searched.
        present: job files of the side that it is compared with; also those are looked for, under their former names.
        later: the side that it is compared with, for renames; None is the working tree.

    Raises:
        BadInput: A path is the standard input, or absolute.
    """
    if foreign := [path for path in paths if path == STDIN or Path(path).is_absolute()]:
        remedy = "name files of the repository, relative to the current folder"
        raise BadInput(f"{foreign[0]}: is in no commit", remedy=remedy, reason="BASE_NOT_FOUND")
    tree = commit.files()
    renames = {_here(present, commit): _here(former, commit) for present, former in commit.renamed(later).items()}
    with tempfile.TemporaryDirectory(prefix="finetree-") as name:
        top = Path(name).resolve()
        folder = top / commit.prefix
        folder.mkdir(parents=True, exist_ok=True)
        former = [renames[file] for file in present if file in renames]
        wanted = _patterns([*paths, *former])
        locked = _lock_file(commit, tree)
        jobs = {path: blob for path, blob in tree.items() if path == locked or wanted.fullmatch(_here(path, commit))}
        commit.write({top / path: blob for path, blob in jobs.items() if blob.size <= MAX_FILE_BYTES})
        with contextlib.chdir(folder):
            files = job_files(paths, former=former)
            data = {_top(path, commit) for file in files for path in _data_of(file)}
        _add_data(commit, sorted(data), tree, top)
        yield Side(folder, files, top / locked, renames)


def _lock_file(commit: Commit, tree: Mapping[str, Blob]) -> str:
    """Path of the nearest lock file from the top of the repository, as it is looked for in the working tree."""
    here = PurePosixPath(commit.prefix)
    places = [str(folder / LOCK_FILE) for folder in (here, *here.parents)]
    return next((path for path in places if path in tree), places[0])


def _patterns(paths: Iterable[str]) -> re.Pattern[str]:
    """Return an expression that matches at least the job files that the paths can mean."""
    plain = [re.escape(posixpath.normpath(path)) for path in paths]
    globs = [re.sub(r"(\\\*|\\\?|\\\[.*?\\\])+", ".*", path) for path in plain]
    names = [rf"(?:.*/)?{re.escape(name)}" for name in NAMES] + [rf".*{re.escape(suffix)}" for suffix in SUFFIXES]
    return re.compile("|".join([*names, *globs]), re.DOTALL)


def job_files(paths: Sequence[str], *, former: Sequence[str] = ()) -> tuple[str, ...]:
    """Find the job files that paths mean below the current folder; a side of a change may lack any of them."""
    found: list[str] = []
    for path in (*(paths or ["."]), *former):
        if glob.has_magic(path) or Path(path).exists():
            with contextlib.suppress(BadInput):  # a folder or glob without a job file
                found += find_job_files([path])
    return tuple(dict.fromkeys(found))


def _data_of(file: str) -> list[str]:
    """Return the relative paths of the data files that a job file names, from the current folder."""
    try:
        spec = read_job(file).spec
    except BadInput:
        return []  # whoever checks the job says what is wrong with it
    named = [source.path for source in (spec.dataset, spec.evaluation.dataset) if source.WhichOneof("source") == "path"]
    return [posixpath.normpath(posixpath.join(posixpath.dirname(file), path)) for path in named if path[:1] != "/"]


def _add_data(commit: Commit, paths: Iterable[str], tree: Mapping[str, Blob], top: Path) -> None:
    """Put data files to their places; what leads out of the repository has none."""
    inside = [path for path in paths if not path.startswith("../")]
    changed = commit.changed(path for path in inside if path in tree)
    for path in inside:
        present = commit.top / path
        if path in changed:
            commit.write({top / path: tree[path]})
            if tree[path].size < LFS_POINTER_BYTES and (top / path).read_bytes().startswith(LFS_POINTER):
                (top / path).unlink()  # its rows are unknown here, and are not the lines of the pointer
        elif present.is_file():
            (top / path).parent.mkdir(parents=True, exist_ok=True)
            (top / path).symlink_to(present.resolve())


def _here(path: str, commit: Commit) -> str:
    """Convert a path from the top of the repository to one from the current folder."""
    return posixpath.relpath(path, commit.prefix or ".")


def _top(path: str, commit: Commit) -> str:
    """Convert a path from the current folder to one from the top of the repository."""
    return posixpath.normpath(posixpath.join(commit.prefix, path))
