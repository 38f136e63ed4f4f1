# SPDX-License-Identifier: Apache-2.0
"""Copies of the data folder's units in the object store: which there are, and every transfer of one.

A unit is a dataset's file, a checkpoint's folder or an artifact's folder, known by its path in the data folder. Without
an object store there are no copies, and nothing here does anything.
"""

import asyncio
import errno
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from finetree_data.confinement.own_files import hash_own
from finetree_data.durable_files import sync_folder
from finetree_data.objects import units
from finetree_data.objects.bucket import Bucket
from finetree_data.objects.errors import ObjectDamagedError, ObjectStoreUnavailableError
from finetree_data.objects.units import Manifest
from finetree_data.weights import checkpoint
from finetree_runtime.errors import DomainError, FailedPrecondition, Unavailable
from finetree_runtime.server.logging import get_logger

from finetree_trainer.disk import full_disk_refused, private_folder, uninterrupted
from finetree_trainer.layout import Layout
from finetree_trainer.objects.drafts import Drafts
from finetree_trainer.objects.locks import Locks
from finetree_trainer.worker_user import give, lend, own_folder, passage

T = TypeVar("T")

TRANSFERS = 4
"""Units that are read, written or hashed at once."""
RETRY_SECONDS = 15.0
_NAMES = ("manifest.json", "finetree.json")
"""Files of a checkpoint and of an artifact that hold what they are: with another one it is another version."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit on the disk. `known` has hashes (hex) of its files that were written with them.

    Units of a smaller `order` are uploaded first.
    """

    place: Path
    known: Mapping[str, str]
    order: int = 0


@dataclass(slots=True)
class Traffic:
    """What went through since the service began, in bytes, and whether the last request was answered."""

    sent: int = 0
    fetched: int = 0
    failures: int = 0
    answers: bool = True


class Copies:
    """Copies in one bucket, or none. Methods that transfer raise Unavailable OBJECT_STORE_UNAVAILABLE."""

    def __init__(self, layout: Layout, bucket: Bucket | None) -> None:
        self._layout, self._bucket = layout, bucket
        self._stored: dict[str, dict[str, Manifest]] = defaultdict(dict)
        """Manifests by their folder and their name in it."""
        self._owners, self._fetches = Locks(), Locks()
        self._whole: dict[str, tuple[tuple[int, ...], ...]] = {}
        """What the files looked like of units that were found whole, by path."""
        self._drafts = Drafts(layout.transfers)
        self._removals: list[set[str]] = []
        """For each reading of the store that is under way: paths of what was removed since it began."""
        self._threads = ThreadPoolExecutor(TRANSFERS, "object-store")
        self._stopping = False
        self.traffic = Traffic()
        self.on_fetched: Callable[[], None] = lambda: None
        """Called when the data folder has grown."""
        self.require_lead: Callable[[], None] = lambda: None
        """Called on a thread before anything is removed; raises where another replica may lead by now."""
        self.current = True
        """Whether what is known of the store is all that it has; another replica may have changed it."""
        self.settled = True
        """Whether no replica that led before can change the store any more."""
        if bucket is not None:
            bucket.stopped = lambda: self._stopping

    @property
    def enabled(self) -> bool:
        """Whether there is an object store."""
        return self._bucket is not None

    async def load(self) -> None:
        """Learn what the store has, at the start of the service."""
        if self._bucket is None:
            return
        await asyncio.to_thread(self._drafts.open)
        await self.learn()

    def take_over(self) -> None:
        """Begin to lead: until it is learned anew, what is known of the store is what it had some time ago."""
        self.current = self.settled = False

    async def learn(self) -> None:
        """Learn all that the store has, and forget what it has no longer."""
        await self._learn("")
        self.current = True

    async def refresh(self, folder: Path) -> None:
        """Learn what the store has below a folder: another trainer or a node may have put it there."""
        if self._bucket is not None:
            await self._learn(self._path(folder))

    async def catch_up(self, folder: Path) -> None:
        """Learn what the store has below a folder where others may have changed it; what is known counts without it."""
        if not self.current:
            with suppress(DomainError):
                await self.refresh(folder)

    async def _learn(self, folder: str) -> None:
        below = f"{folder}/" if folder else ""
        before = {manifest.path: manifest for _, manifest in self if manifest.path.startswith(below)}
        removed: set[str] = set()
        self._removals.append(removed)
        try:
            found, damaged = await self._use(units.find_below, folder)
        finally:
            self._removals.remove(removed)
        there = [manifest for manifest in found if manifest.path not in removed]
        for path in before.keys() - {manifest.path for manifest in there}:
            place = self._layout.root / path
            if self.find(place) is before[path]:  # else it was put there meanwhile
                self._forget(place)
        for path in damaged:
            get_logger().error("object_damaged", path=path)
        for manifest in there:
            self._note(manifest)

    def find(self, place: Path) -> Manifest | None:
        """The manifest of a unit in the store; None where it is not there."""
        return self._stored.get(self._path(place.parent), {}).get(place.name)

    def below(self, folder: Path) -> Mapping[str, Manifest]:
        """Manifests of the units right below a folder, by their names."""
        return self._stored.get(self._path(folder), {})

    def steps(self, checkpoints: Path) -> dict[int, Manifest]:
        """Checkpoints of a job that are in the store, by step."""
        return {
            step: manifest
            for name, manifest in self.below(checkpoints).items()
            if (step := checkpoint.step_of(name)) is not None
        }

    def __iter__(self) -> Iterator[tuple[Path, Manifest]]:
        """Every unit of the store, with its place in the data folder."""
        for folder, found in list(self._stored.items()):
            for name, manifest in list(found.items()):
                yield self._layout.root / folder / name, manifest

    # ------------------------------------------------------------------------------------------------ to the disk

    async def ensure(self, place: Path) -> None:
        """Fetch a unit that the disk lacks or has damaged, if the store has it; else leave it to who reads it.

        Raises FailedPrecondition OBJECT_DAMAGED for a copy that is not what its manifest says.
        """
        if self._bucket is None:
            return
        async with self._fetches.held(self._path(place)):
            manifest = self.find(place)
            if manifest is None and not await self._run(os.path.lexists, place):
                manifest = await self._use(units.find, self._path(place))
            if manifest is None or await self._run(self._is_good, place, manifest):
                return
            # Another replica may have removed it since, or put another version there.
            manifest = await self._use(units.find, self._path(place))
            if manifest is None:
                self._forget(place)
                return
            started = time.monotonic()
            await self._use(self._fetch, place, manifest)
            self._note(manifest)
            self.traffic.fetched += manifest.size
            seconds = round(time.monotonic() - started, 3)
            get_logger().info("object_fetched", path=manifest.path, size_bytes=manifest.size, seconds=seconds)
        self.on_fetched()

    def _is_good(self, place: Path, manifest: Manifest) -> bool:
        """Whether the disk has a unit, as the store has it or in another version; note that it was used."""
        for name in _NAMES:
            stated = manifest.files.get(name)
            with suppress(OSError):
                if stated is not None and hash_own(place / name) != stated.sha256:
                    return True  # whoever reads it compares it with what it says of itself
        looks = _looks(place, manifest)
        known = bool(looks) and self._whole.get(manifest.path) == looks
        if not looks or not units.is_whole(manifest, place, hashed=not known):
            return False
        self._whole[manifest.path] = looks
        with suppress(OSError):  # removed a moment ago, which whoever reads it finds
            touch(place)
        return True

    def _fetch(self, bucket: Bucket, place: Path, manifest: Manifest) -> None:
        draft = self._drafts.new()
        try:
            with full_disk_refused():
                units.fetch(bucket, manifest, draft)
                self._hand_over(draft, place)
                if os.path.lexists(place):
                    if self._is_good(place, manifest):  # fetched or made by others meanwhile
                        return
                    place.rename(draft.with_suffix(".replaced"))
                try:
                    draft.rename(place)
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                        raise
                    return  # fetched by another replica a moment ago
                sync_folder(place.parent)
        finally:
            for left in (draft, draft.with_suffix(".replaced")):
                _discard(left)
        self._whole[manifest.path] = _looks(place, manifest)
        touch(place)

    def _hand_over(self, draft: Path, place: Path) -> None:
        """Make the folder that a unit goes to, and give the unit to those who read it there."""
        user, layout = self._layout.user, self._layout
        if place.parent == layout.datasets:
            private_folder(layout.datasets)
            lend(draft, user)
            return
        give(draft, user)
        parts = Path(self._path(place)).parts
        for count in range(2, len(parts)):
            # Of jobs/{job}/attempts/{attempt}/artifacts the first two are the service's.
            shared = count == 2 or parts[count - 1] == "attempts"
            (passage if shared else own_folder)(layout.root.joinpath(*parts[:count]), user)

    # ----------------------------------------------------------------------------------------------- to the store

    async def upload(self, unit: Unit) -> None:
        """Put a unit into the store; what is there of another version is replaced.

        Raises FailedPrecondition OBJECT_DAMAGED for a unit that is damaged on the disk; OSError where it is gone.
        """
        async with self._owners.held(self._owner(unit.place)):
            sent, manifest = await self._use(self._upload, unit)
            self._note(manifest)
            self.traffic.sent += sent

    def _upload(self, bucket: Bucket, unit: Unit) -> tuple[int, Manifest]:
        # A worker that rotates removes names: links keep the files until they are sent.
        links = self._drafts.new()
        try:
            _link(unit.place, links)
            path = self._path(unit.place)
            manifest = units.describe(path, links, unit.known)
            manifest = Manifest(path, unit.place.stat().st_mtime_ns, manifest.files)
            there = units.find(bucket, path)
            if there is not None and there.files != manifest.files:
                self.require_lead()
                units.remove(bucket, path)
            return units.upload(bucket, manifest, links), manifest
        finally:
            _discard(links)

    async def remove(self, place: Path) -> None:
        """Remove a unit from the store, after it is gone from the disk or is about to be."""
        if self._bucket is None:
            return
        async with self._owners.held(self._owner(place)):
            if self.find(place) is not None or not self.current:
                await self._use(self._remove, units.remove, self._path(place))
                self._forget(place)

    async def remove_below(self, folder: Path) -> None:
        """Remove everything below the folder of a job that was deleted."""
        if self._bucket is None:
            return
        async with self._owners.held(self._owner(folder)):
            await self._use(self._remove, units.remove_below, self._path(folder))
            for place, _ in self:
                if place.is_relative_to(folder):
                    self._forget(place)

    def _remove(self, bucket: Bucket, remove: Callable[[Bucket, str], None], path: str) -> None:
        self.require_lead()
        remove(bucket, path)

    # -------------------------------------------------------------------------------------------------- in between

    def drop(self, place: Path) -> bool:
        """Remove a unit from the disk whose copy in the store fits; return whether it is gone. Blocks."""
        manifest = self.find(place)
        if manifest is None or not units.is_whole(manifest, place, hashed=False):
            return False
        self.require_lead()
        trash = self._drafts.new()
        place.rename(trash)
        _discard(trash)
        return True

    async def is_in_store(self, manifest: Manifest) -> bool:
        """Return whether the store has a unit now, by its manifest and the sizes of its files."""

        def work(bucket: Bucket) -> bool:
            return units.is_stored(bucket, manifest)

        return await self._use(work)

    async def sign(self, place: Path, name: str, *, sha256: str, seconds: int) -> str | None:
        """Make a URL of a file of a unit; None where the store does not have the file with this hash (hex).

        Raises FailedPrecondition OBJECT_DAMAGED, ObjectStoreRefusedError LINKS_UNSUPPORTED.
        """
        manifest = self.find(place) or await self._use(units.find, self._path(place))
        if manifest is None or name not in manifest.files or manifest.files[name].sha256 != sha256:
            return None
        return await self._use(units.sign, manifest, name, seconds)

    def close(self) -> None:
        """End the transfers that run; what they have sent so far is used by the next ones."""
        self._stopping = True
        self._drafts.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        return await uninterrupted(_awaited(self._threads, work, *arguments))

    async def _use(self, work: Callable[..., T], *arguments: object) -> T:
        """Run work with the bucket on a thread, and turn its errors into those of rpcs."""
        try:
            found = await self._run(work, self._bucket, *arguments)
        except ObjectStoreUnavailableError as error:
            self.traffic.failures += 1
            self.traffic.answers = False
            raise unavailable(str(error)) from error
        except ObjectDamagedError as error:
            raise damaged(error) from error
        self.traffic.answers = True
        return found

    def _note(self, manifest: Manifest) -> None:
        folder, _, name = manifest.path.rpartition("/")
        self._stored[folder][name] = manifest

    def _forget(self, place: Path) -> None:
        self._stored.get(self._path(place.parent), {}).pop(place.name, None)
        self._whole.pop(self._path(place), None)
        for removed in self._removals:
            removed.add(self._path(place))

    def _path(self, place: Path) -> str:
        # The task of a worker names absolute paths.
        root = self._layout.root
        return place.relative_to(root if place.is_absolute() == root.is_absolute() else root.absolute()).as_posix()

    def _owner(self, place: Path) -> str:
        return "/".join(self._path(place).split("/")[:2])


async def _awaited(threads: ThreadPoolExecutor, work: Callable[..., T], *arguments: object) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, work, *arguments)


def unavailable(why: str) -> DomainError:
    """Build the error of an object store that does not answer."""
    return Unavailable("OBJECT_STORE_UNAVAILABLE", f"{why[0].upper()}{why[1:]}.", retry_delay=RETRY_SECONDS)


def damaged(error: ObjectDamagedError) -> FailedPrecondition:
    """Build the error of a unit whose bytes are not those of its manifest."""
    text = f"{error} in the object store, or on its way there; restore it, or make it again"
    return FailedPrecondition("OBJECT_DAMAGED", f"{text}.", metadata={"path": error.path, "file": error.file})


def touch(place: Path) -> None:
    """Note that a unit was used, by its access time: whatever its file system notes of reads by itself."""
    os.utime(place, ns=(time.time_ns(), place.stat().st_mtime_ns))


def _looks(place: Path, manifest: Manifest) -> tuple[tuple[int, ...], ...]:
    """Identity, size and times of change of a unit's files; empty where one is missing."""
    try:
        found = [(place / name if name else place).stat() for name in manifest.files]
    except OSError:
        return ()
    return tuple((each.st_ino, each.st_size, each.st_mtime_ns) for each in found)


def _link(place: Path, target: Path) -> None:
    """Give the regular files of a unit second names. Raises OSError where it is gone, or is removed meanwhile."""
    if not place.is_dir():
        os.link(place, target, follow_symlinks=False)
        return
    for folder, _, names in os.walk(place):
        there = target / Path(folder).relative_to(place)
        there.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in names:
            os.link(Path(folder) / name, there / name, follow_symlinks=False)


def _discard(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)
