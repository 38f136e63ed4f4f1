# SPDX-License-Identifier: Apache-2.0
"""Units of files in a bucket: a checkpoint, an artifact, a dataset. A unit counts once its manifest is there.

    files/{path}/{sha256}     a file of the unit, by its content
    manifests/{path}.json     put last, and only where there is none

`path` is the one that the unit has in a data folder. A file is there whole or not at all, under a name that says what
it must be: an upload that was cut goes on with the first file that is missing.
"""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetree_data.confinement.own_files import hash_own
from finetree_data.durable_files import sync_folder
from finetree_data.objects.bucket import Bucket
from finetree_data.objects.errors import ObjectDamagedError

FORMAT = 1
READERS = 16
"""Manifests that are read at once."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a unit: its hash (hex) and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A unit that is in the store; a unit that is a single file has it under the name "".

    `time_ns` is when it was made, nanoseconds since 1970.
    """

    path: str
    time_ns: int
    files: Mapping[str, StoredFile]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    def to_bytes(self) -> bytes:
        """Return it as it is stored."""
        files = {name: {"sha256": file.sha256, "size": file.size} for name, file in sorted(self.files.items())}
        content = {"format": FORMAT, "path": self.path, "time_ns": self.time_ns, "files": files}
        return (json.dumps(content, indent=1) + "\n").encode()

    @classmethod
    def parse(cls, path: str, content: bytes) -> "Manifest":
        """Read a stored one. Raises ObjectDamagedError, also for names that lead out of the unit."""
        try:
            read: dict[str, Any] = json.loads(content)
            files = {str(name): StoredFile(str(f["sha256"]), int(f["size"])) for name, f in read["files"].items()}
            found = cls(str(read["path"]), int(read["time_ns"]), files)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ObjectDamagedError(path) from None
        if found.path != path or read["format"] != FORMAT or not all(map(_stays_inside, files)):
            raise ObjectDamagedError(path)
        return found


def describe(path: str, place: Path, known: Mapping[str, str]) -> Manifest:
    """Describe a unit on the disk. Hashes (hex) that are known by file are taken over; the others are computed.

    Raises OSError.
    """
    if place.is_file():
        names = {"": place}
    else:
        found = (file for file in sorted(place.rglob("*")) if file.is_file() and not file.is_symlink())
        names = {file.relative_to(place).as_posix(): file for file in found}
        for name in known.keys() - names.keys():
            raise FileNotFoundError(f"{path}/{name}")
    files = {name: StoredFile(known.get(name) or hash_own(file), file.stat().st_size) for name, file in names.items()}
    return Manifest(path, place.stat().st_mtime_ns, files)


def upload(bucket: Bucket, manifest: Manifest, place: Path) -> int:
    """Put the files of a unit that are missing, then its manifest; return the bytes that were sent.

    A unit that is there already must be the same one. Raises ObjectDamagedError for a file, or a stored unit, that is
    not what the manifest says; ObjectStoreUnavailableError; OSError of the disk.
    """
    sent = 0
    for name, file in manifest.files.items():
        key = _key(manifest.path, file)
        if bucket.size(key) == file.size:
            continue
        try:
            target, shown = place / name if name else place, name or manifest.path
            bucket.put_file(key, target, name=shown, sha256=file.sha256, size=file.size)
        except ObjectDamagedError:
            raise ObjectDamagedError(manifest.path, name) from None
        sent += file.size
    if not bucket.create(_manifest_key(manifest.path), manifest.to_bytes()):
        there = find(bucket, manifest.path)
        if there is not None and there.files != manifest.files:
            raise ObjectDamagedError(manifest.path)
    return sent


def fetch(bucket: Bucket, manifest: Manifest, draft: Path) -> None:
    """Write a unit to a new folder or file and flush it, every file compared with its hash.

    Raises ObjectDamagedError, which names the file; ObjectStoreUnavailableError; OSError of the disk.
    """
    for name, file in manifest.files.items():
        target = draft / name if name else draft
        target.parent.mkdir(parents=True, exist_ok=True)
        if not bucket.fetch_file(_key(manifest.path, file), target, sha256=file.sha256, size=file.size):
            raise ObjectDamagedError(manifest.path, name)
    for folder in [draft, *draft.rglob("*/")] if draft.is_dir() else []:
        sync_folder(folder)
    os.utime(draft, ns=(manifest.time_ns, manifest.time_ns))


def find(bucket: Bucket, path: str) -> Manifest | None:
    """Return a unit's manifest; None where the unit is not there.

    Raises ObjectDamagedError, ObjectStoreUnavailableError.
    """
    content = bucket.read(_manifest_key(path))
    return Manifest.parse(path, content) if content is not None else None


def find_below(bucket: Bucket, folder: str = "") -> tuple[list[Manifest], list[str]]:
    """Return the manifests of all units below a folder, and the paths of those that cannot be read.

    Raises ObjectStoreUnavailableError.
    """
    prefix = f"manifests/{folder}/" if folder else "manifests/"
    paths = [key.removeprefix("manifests/").removesuffix(".json") for key in bucket.keys(prefix)]

    def read(path: str) -> Manifest | str | None:
        try:
            return find(bucket, path)
        except ObjectDamagedError:
            return path

    with ThreadPoolExecutor(READERS, thread_name_prefix="manifests") as readers:
        found = list(readers.map(read, paths))
    return [each for each in found if isinstance(each, Manifest)], [each for each in found if isinstance(each, str)]


def remove(bucket: Bucket, path: str) -> None:
    """Remove a unit, the manifest first. Raises ObjectStoreUnavailableError."""
    bucket.delete([_manifest_key(path)])
    bucket.delete(bucket.keys(f"files/{path}/"))


def remove_below(bucket: Bucket, folder: str) -> None:
    """Remove every unit below a folder, and what uploads that were cut have left. Raises as `remove`."""
    bucket.delete(bucket.keys(f"manifests/{folder}/"))
    bucket.delete(bucket.keys(f"files/{folder}/"))


def is_whole(manifest: Manifest, place: Path, *, hashed: bool) -> bool:
    """Return whether a unit on the disk has the manifest's files, by their sizes and, with `hashed`, their hashes."""
    try:
        for name, file in manifest.files.items():
            target = place / name if name else place
            if target.stat().st_size != file.size or (hashed and hash_own(target) != file.sha256):
                return False
    except OSError:
        return False
    return True


def is_stored(bucket: Bucket, manifest: Manifest) -> bool:
    """Return whether the store has a unit now: this manifest, and every file in its size.

    Raises ObjectStoreUnavailableError.
    """
    try:
        there = find(bucket, manifest.path)
    except ObjectDamagedError:
        return False
    if there is None or there.files != manifest.files:
        return False
    return all(bucket.size(_key(manifest.path, file)) == file.size for file in manifest.files.values())


def sign(bucket: Bucket, manifest: Manifest, name: str, seconds: int) -> str:
    """Make a URL from which anybody can GET a file of a unit for some time.

    Raises ObjectDamagedError where the store does not have it as the manifest says, and what Bucket.sign does.
    """
    file = manifest.files[name]
    key = _key(manifest.path, file)
    url = bucket.sign(key, seconds)
    if bucket.size(key) != file.size:
        raise ObjectDamagedError(manifest.path, name)
    return url


def _key(path: str, file: StoredFile) -> str:
    return f"files/{path}/{file.sha256}"


def _manifest_key(path: str) -> str:
    return f"manifests/{path}.json"


def _stays_inside(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/")
