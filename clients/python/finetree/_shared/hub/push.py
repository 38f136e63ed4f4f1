# SPDX-License-Identifier: Apache-2.0
"""What of a job is pushed to a model hub, and where to."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from finetree_api.trainer.v1 import artifact_pb2

from finetree._shared.downloads import inside
from finetree._shared.hub import model_hub
from finetree._shared.requests import invalid
from finetree.errors import InvalidArgument

ANNOTATION = "finetree.dev/pushed"
"""Annotation of a job that was pushed: "REPOSITORY@COMMIT" of the newest push."""
CARD = "README.md"
_PUSHED = (artifact_pb2.ARTIFACT_KIND_ADAPTER, artifact_pb2.ARTIFACT_KIND_MODEL, artifact_pb2.ARTIFACT_KIND_GGUF)
_REPOSITORY = re.compile(r"[\w][\w.-]{0,95}/[\w][\w.-]{0,95}")
_LOADS_HERE = re.compile(r'^(?!.*adapter\.load)(.*from_pretrained\(.*?)"\."([,)].*)$', re.MULTILINE)
"""A line of the card that loads from its own folder, before and behind that folder."""


def target_of(
    repository: str, *, revision: str, public: bool, token: str | None, endpoint: str | None
) -> model_hub.Target:
    """Return where to push; what is None comes from HF_TOKEN and HF_ENDPOINT.

    Raises:
        InvalidArgument: The repository is no name; PUSH_TOKEN_MISSING, PUSH_ADDRESS_INVALID.
        FailedPrecondition: PUSH_NOT_INSTALLED.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise invalid("repository", f"{repository!r} is no repository; name it organization/name")
    token = (os.environ.get("HF_TOKEN", "") if token is None else token).strip()
    if not token:
        text = "there is no token of the hub: give one that may write as token, or set HF_TOKEN to it"
        raise InvalidArgument(text, reason="PUSH_TOKEN_MISSING")
    endpoint = endpoint or os.environ.get("HF_ENDPOINT", "") or model_hub.DEFAULT_ENDPOINT
    target = model_hub.Target(repository, revision, public=public, endpoint=endpoint.rstrip("/"), token=token)
    model_hub.check(target)
    return target


def choose(artifacts: Sequence[artifact_pb2.Artifact], wanted: str | None) -> artifact_pb2.Artifact:
    """Return the artifact of a name, or the one that is an adapter, a model or a GGUF file.

    Raises:
        InvalidArgument: ARTIFACT_NOT_FOUND: there is none, or several are.
    """
    names = [artifact.name.rpartition("/")[2] for artifact in artifacts]
    if wanted is not None:
        found = [each for each, name in zip(artifacts, names, strict=True) if wanted in (each.name, name)]
    else:
        found = [each for each in artifacts if each.kind in _PUSHED]
    if len(found) == 1:
        return found[0]
    there = f"it has {', '.join(names)}" if names else "it has none"
    if wanted is not None:
        text = f"the job has no artifact {wanted!r}: {there}"
    elif found:
        text = f"the job has several artifacts to push; name one: {', '.join(names)}"
    else:
        text = f"the job has no adapter, no model and no GGUF file: {there}"
    raise InvalidArgument(text, reason="ARTIFACT_NOT_FOUND")


def files_of(
    artifact: artifact_pb2.Artifact, folder: Path, *, repository: str, revision: str
) -> dict[str, Path | bytes]:
    """Return the artifact's files; the lines of the card load from the repository instead of from the folder."""
    files: dict[str, Path | bytes] = {file.path: folder / file.path for file in artifact.files}
    if CARD in files:
        place = (
            f'"{repository}"' if revision == model_hub.DEFAULT_REVISION else f'"{repository}", revision="{revision}"'
        )
        text = (folder / CARD).read_text(encoding="utf-8")
        files[CARD] = _LOADS_HERE.sub(lambda line: f"{line[1]}{place}{line[2]}", text).encode()
    return files


class PushFolder:
    """Where an artifact of a job is kept while a push has it to itself.

    It is the job's own folder, in which a push that fails leaves what it has fetched to the next one. While another
    push has that, it is a temporary one. A context manager, which gives the folder free.

    Attributes:
        path: the folder.
    """

    def __init__(self, uid: str) -> None:
        """Take a folder for a job.

        Raises:
            Internal: UNSAFE_PATH.
            OSError: It cannot be made.
        """
        base = os.environ.get("XDG_CACHE_HOME", "")
        parent = (Path(base) if base else Path.home() / ".cache") / "finetree" / "push"
        self.path = inside(parent, uid)
        self._lock = _locked(self.path)
        if self._lock is None:
            self.path = Path(tempfile.mkdtemp(prefix=f"{uid}.", dir=parent))

    def discard(self) -> None:
        """Remove the folder: what it has is pushed."""
        shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Give the folder free; a temporary one is removed."""
        if self._lock is None:
            self.discard()
        else:
            os.close(self._lock)


def _locked(folder: Path) -> int | None:
    """Make a folder and lock it; None where another push has it, or the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return None
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return None
        # Whoever had it until now may have removed it: then this is no longer the folder of that name.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        os.close(handle)
