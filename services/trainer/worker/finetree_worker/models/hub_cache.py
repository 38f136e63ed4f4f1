# SPDX-License-Identifier: Apache-2.0
"""The folder of a hub's repository on disk: whole models by commit, and the commits of branches.

`refs.json` has the commit of a branch or tag when it was last looked up; `{commit}` is a whole model;
`.{commit}.partial` is an interrupted download, which the next one resumes.
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

from finetree_data.durable_files import replace_file, sync_folder

from finetree_worker.atomic_files import MANIFEST, hashes, seal, storage_errors
from finetree_worker.control import Steering
from finetree_worker.errors import ModelError
from finetree_worker.models.hub import HubError, Repository

REFS = "refs.json"
_WAIT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class HubCache:
    """The folder of one repository. Methods that write to it raise StorageError."""

    path: Path

    def make(self) -> None:
        """Make the folder unless it exists."""
        with storage_errors():
            self.path.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def lock(self, steering: Steering) -> Iterator[None]:
        """Hold the lock on the repository: a second task waits, and then finds the model.

        A folder without a model is removed afterwards. Raises Cancelled while it waits.
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
        """Return whether the model of a commit is whole: its manifest, and every file in its size."""
        sizes = _read(self.path / commit / MANIFEST).get("sizes")
        if not isinstance(sizes, dict):
            return False
        with suppress(OSError):
            return all((self.path / commit / name).stat().st_size == size for name, size in sizes.items())
        return False

    def hub_id(self, commit: str) -> str | None:
        """Return the repository's id in the hub's own spelling; None where the manifest has none."""
        return _read(self.path / commit / MANIFEST).get("hub_id")

    def commit_of(self, revision: str) -> str | None:
        """Return the commit of a branch or tag when it was last looked up; None where it never was."""
        commit = _read(self.path / REFS).get(revision)
        return commit if isinstance(commit, str) else None

    def set_commit(self, revision: str, commit: str) -> None:
        """Note the commit of a branch or tag."""
        refs = _read(self.path / REFS)
        if refs.get(revision) == commit:
            return
        text = json.dumps({**refs, revision: commit}, indent=2, sort_keys=True)
        with storage_errors():
            replace_file(self.path / REFS, f"{text}\n".encode())

    @contextmanager
    def draft(self, commit: str) -> Iterator[Path]:
        """Yield a commit's draft folder: kept when the download is interrupted, removed when the model is refused."""
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
                draft.rmdir()  # only where it is empty

    def publish(self, draft: Path, repository: Repository) -> None:
        """Compare a draft's files with the hub's hashes, then rename it. Raises HubError MODEL_CORRUPT."""
        for name, digest in hashes(draft).items():
            if (listed := repository.files[name].sha256) and listed != digest:
                (draft / name).unlink()
                raise HubError(
                    "MODEL_CORRUPT",
                    f"{name!r} of {repository.id!r} does not have the hub's sha256; it was removed.",
                    field="model.hub",
                    remedy="Start the job again, which downloads the file again.",
                )
        sizes = {path.name: path.stat().st_size for path in draft.iterdir()}
        facts = {"format": 1, "hub_id": repository.id, "revision": repository.commit, "origin": "hub", "sizes": sizes}
        facts |= {"license": repository.license} if repository.license else {}
        with storage_errors():
            seal(draft, facts)
            shutil.rmtree(self.path / repository.commit, ignore_errors=True)  # it was not whole, or this would not run
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
