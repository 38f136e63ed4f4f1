# SPDX-License-Identifier: Apache-2.0
"""What is asked of git: a commit, its files, what was renamed or changed since, and the bytes of a file."""

import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from finetree_cli.errors import BadInput

REGULAR = frozenset(("100644", "100755"))
"""Modes of files; anything else is a link or another repository."""
CHUNK_BYTES = 1 << 20
RENAMED = ("*.yaml", "*.yml", "*.json")
"""Files among which renames are looked for."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A file of a commit."""

    sha: str
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit of the repository that the current folder belongs to. Its paths begin at the top of the repository."""

    ref: str
    """As it was given."""
    sha: str
    top: Path
    """Top folder of the working tree."""
    prefix: str
    """Current folder below it, with a slash at the end; empty at the top."""

    def files(self) -> dict[str, Blob]:
        """List the regular files by path."""
        found = {}
        for line in _git(self.top, "ls-tree", "-r", "-z", "-l", "--full-tree", self.sha).split(b"\0"):
            if line:
                facts, _, path = line.partition(b"\t")
                mode, _, sha, size = facts.decode().split()
                if mode in REGULAR:
                    found[_name(path)] = Blob(sha, int(size))
        return found

    def renamed(self, later: "Commit | None") -> dict[str, str]:
        """Return the paths in this commit by those in a later one, or in the working tree, where they differ."""
        words = ["diff", "--no-ext-diff", "-M", "--diff-filter=R", "--name-status", "-z", self.sha]
        words += [later.sha] if later is not None else []
        status, *parts = _git(self.top, *words, "--", *RENAMED).split(b"\0")
        found = {}
        while status:
            former, present, status, *parts = [*parts, b""]
            found[_name(present)] = _name(former)
        return found

    def changed(self, paths: Iterable[str]) -> set[str]:
        """Return those of the paths whose bytes are others in the working tree, or that it does not have."""
        literal = [f":(top,literal){path}" for path in paths]
        if not literal:
            return set()
        listed = _git(self.top, "diff", "--no-ext-diff", "--name-only", "-z", self.sha, "--", *literal)
        return {_name(path) for path in listed.split(b"\0") if path}

    def write(self, blobs: Mapping[Path, Blob]) -> None:
        """Write files; their folders are made."""
        command = ["git", "-C", str(self.top), "cat-file", "--batch"]
        with tempfile.TemporaryFile() as asked:
            asked.write("".join(f"{blob.sha}\n" for blob in blobs.values()).encode())
            asked.seek(0)
            with subprocess.Popen(command, stdin=asked, stdout=subprocess.PIPE) as git:
                for path, blob in blobs.items():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("wb") as stream:
                        _copy(git.stdout, stream, blob)


def _copy(source: IO[bytes] | None, target: IO[bytes], blob: Blob) -> None:
    """Copy the next file of `cat-file --batch`: a line with its size, its bytes, a line end."""
    if source is None or source.readline().split()[-1:] != [str(blob.size).encode()]:
        raise BadInput(f"git has no object {blob.sha}", remedy="git fetch --refetch", reason="GIT_FAILED")
    left = blob.size
    while left:
        part = source.read(min(left, CHUNK_BYTES))
        if not part:
            raise BadInput("git ended early", reason="GIT_FAILED")
        target.write(part)
        left -= len(part)
    source.read(1)


def find_commit(ref: str) -> Commit:
    """Find a commit by a ref or a hash, in the repository of the current folder.

    Raises:
        BadInput: This is no git repository, or it does not have the commit; then with the command that fetches it.
    """
    here = Path.cwd()
    lines = _git(here, "rev-parse", "--show-toplevel", "--show-prefix").decode().split("\n")
    words = ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}"]
    done = _run(here, words, check=False)
    if done.returncode:
        raise _missing(ref, here)
    return Commit(ref, done.stdout.decode().strip(), Path(lines[0]), lines[1])


def _missing(ref: str, here: Path) -> BadInput:
    """Say that a commit is not here, and how it comes here."""
    remotes = _git(here, "remote").decode().split()
    shallow = _git(here, "rev-parse", "--is-shallow-repository").strip() == b"true"
    depth = " --depth=1" if shallow else ""
    remote, _, branch = ref.partition("/")
    if remote in remotes and branch:
        remedy = f"git fetch{depth} {remote} {branch}:refs/remotes/{ref}"
    elif not remotes:
        remedy = "name a branch, a tag or a commit of this repository"
    elif shallow and any(letter in ref for letter in "~^"):
        remedy = "git fetch --unshallow"
    else:
        remedy = f"git fetch{depth} {remotes[0]} {ref}"
    kind = "this shallow clone" if shallow else "this repository"
    return BadInput(f"{ref}: no commit of {kind}", remedy=remedy, reason="BASE_NOT_FOUND")


def _git(folder: Path, *words: str) -> bytes:
    return _run(folder, words).stdout


def _run(folder: Path, words: Sequence[str], *, check: bool = True) -> "subprocess.CompletedProcess[bytes]":
    """Run git. Raises BadInput where it is not installed or refuses."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, check=False)
    except FileNotFoundError as error:
        raise BadInput("git is not installed", reason="GIT_UNAVAILABLE") from error
    if check and done.returncode:
        text = done.stderr.decode(errors="replace").strip().splitlines()
        problem = text[0].removeprefix("fatal: ") if text else f"git {words[0]} failed"
        raise BadInput(problem, remedy="a base is a commit of the current folder's repository", reason="GIT_FAILED")
    return done


def _name(path: bytes) -> str:
    return path.decode(errors="surrogateescape")
