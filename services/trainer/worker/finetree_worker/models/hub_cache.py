# SPDX-License-Identifier: Apache-2.0
"""The folder that keeps a hub's repository on disk: models by commit, each of them whole, and what branches were.

`refs.json` says which commit a branch or tag was when it was last asked for; `{commit}` is a model, whole;
`.{commit}.partial` is what a cut download has left, and the next one goes on with it.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetree_worker.atomic_files import MANIFEST, hashes, seal, storage_errors, sync_folder
from finetree_worker.control import Steering
from finetree_worker.errors import ModelError
from finetree_worker.models.hub import HubError, Repository

REFS = "refs.json"
_WAIT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class HubFolder:
    """The folder of one repository. What writes to it raises StorageError."""

    path: Path

    def make(self) -> None:
        """Make the folder unless it is there."""
        with storage_errors():
            self.path.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def alone(self, steering: Steering) -> Iterator[None]:
        """One download of a repository at a time; who comes second waits, and then finds it there.

        Where nothing has come of it, the folder is removed again. Raises Cancelled while it waits.
        """
        descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not _locked(descriptor):
                steering.stop_here()
                time.sleep(_WAIT_SECONDS)
            yield
        finally:
            if [path.name for path in self.path.iterdir()] == [".lock"]:
                shutil.rmtree(self.path, ignore_errors=True)
            os.close(descriptor)

    def holds(self, commit: str) -> bool:
        """Whether the model of a commit is all there: its manifest, and every file of it in its size."""
        sizes = _read(self.path / commit / MANIFEST).get("sizes")
        if not isinstance(sizes, dict):
            return False
        with suppress(OSError):
            return all((self.path / commit / name).stat().st_size == size for name, size in sizes.items())
        return False

    def hub_id(self, commit: str) -> str | None:
        """The repository's id as the hub itself writes it; None where the model does not say it."""
        return _read(self.path / commit / MANIFEST).get("hub_id")

    def commit_of(self, revision: str) -> str | None:
        """The commit that a branch or tag was when it was last asked for, if it ever was."""
        commit = _read(self.path / REFS).get(revision)
        return commit if isinstance(commit, str) else None

    def note(self, revision: str, commit: str) -> None:
        """Remember which commit a branch or tag is."""
        refs = _read(self.path / REFS)
        if refs.get(revision) == commit:
            return
        draft, text = self.path / f".{REFS}.tmp", json.dumps({**refs, revision: commit}, indent=2, sort_keys=True)
        with storage_errors():
            draft.write_text(text + "\n", encoding="utf-8")
            draft.replace(self.path / REFS)
            sync_folder(self.path)

    @contextmanager
    def draft(self, commit: str) -> Iterator[Path]:
        """The draft folder of a commit: kept when the download is cut, removed when the model is refused."""
        draft = self.path / f".{commit}.partial"
        try:
            yield draft
        except ModelError as error:
            if error.reason != "MODEL_GATED":
                shutil.rmtree(draft, ignore_errors=True)
            raise
        finally:
            for part in draft.glob("*.part"):
                if part.stat().st_size == 0:
                    part.unlink()
            with suppress(OSError):
                draft.rmdir()  # one in which nothing is

    def publish(self, draft: Path, repository: Repository) -> None:
        """Hold a draft's files against the hub's hashes, then give them their name. Raises HubError MODEL_CORRUPT."""
        for name, digest in hashes(draft).items():
            if (told := repository.files[name].sha256) and told != digest:
                (draft / name).unlink()
                raise HubError(
                    "MODEL_CORRUPT",
                    f"{name!r} of {repository.id!r} is not what the hub says it is (sha256); it was removed.",
                    field="model.hub",
                    remedy="The same job again fetches it anew.",
                )
        sizes = {path.name: path.stat().st_size for path in draft.iterdir()}
        facts = {"format": 1, "hub_id": repository.id, "revision": repository.commit, "origin": "hub", "sizes": sizes}
        with storage_errors():
            seal(draft, facts)
            shutil.rmtree(self.path / repository.commit, ignore_errors=True)  # not whole, or we were not here
            draft.rename(self.path / repository.commit)
            sync_folder(self.path)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
