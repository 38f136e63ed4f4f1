# SPDX-License-Identifier: Apache-2.0
"""What a backup consists of: every file with its hash, in one document that is sealed by its own."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from finetree_runtime.config.settings import SettingsError

FORMAT = 1
"""Version of the document, and of the folder that holds it."""
SUITE, SERVICES = "suite", "services"
"""Where the folders were: `trainer` and `estimator` in one data folder (`finetree up`), or each in its own place."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of a backup. `path` begins with the part that it is of; `pieces` are the hashes of its bytes, in order."""

    path: str
    size: int
    modified_ns: int
    sha256: str
    pieces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of a backup: also an empty one, and the time by which retention counts its age."""

    path: str
    modified_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A whole backup, as of `time`: the moment at which the trainer's database was read.

    Attributes:
        id: the time in UTC as digits, by which backups are sorted.
        time: ISO 8601, UTC, with microseconds.
        version: release of the trainer that wrote it.
        schema_version: version of the tables of the trainer's database.
        layout: `SUITE` or `SERVICES`.
        parts: "trainer", and "estimator" where its folder was there.
        with_models: whether base models are in it.
        jobs: how many jobs the database has.
        live: resource names of the jobs that had not ended.
        missing: paths that the database names and that were not on the disk, also after it was read again.
    """

    id: str
    time: str
    version: str
    schema_version: int
    layout: str
    parts: tuple[str, ...]
    with_models: bool
    jobs: int
    live: tuple[str, ...]
    files: tuple[File, ...]
    folders: tuple[Folder, ...]
    missing: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of all files, as they are when they are restored."""
        return sum(file.size for file in self.files)


def to_bytes(manifest: Manifest) -> bytes:
    """Return the document: the manifest and the SHA-256 of its JSON without spaces, keys sorted."""
    content = dataclasses.asdict(manifest)
    sealed = {"format": FORMAT, "manifest": content, "sha256": hashlib.sha256(_canonical(content)).hexdigest()}
    return json.dumps(sealed, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def from_bytes(name: str, document: bytes) -> Manifest:
    """Read a document. Raises SettingsError BACKUP_DAMAGED, or BACKUP_FORMAT_UNSUPPORTED for one of a later release."""
    try:
        sealed = json.loads(document)
        content, digest, format_ = sealed["manifest"], sealed["sha256"], sealed["format"]
    except (ValueError, KeyError, TypeError):
        raise _damaged(name) from None
    if format_ != FORMAT:
        text = f"backup {name} has format {format_!r}, this program reads {FORMAT}; use the release that wrote it"
        raise SettingsError("BACKUP_FORMAT_UNSUPPORTED", text)
    if hashlib.sha256(_canonical(content)).hexdigest() != digest:
        raise _damaged(name)
    return _manifest(content)


def _manifest(content: dict[str, Any]) -> Manifest:
    lists = ("parts", "live", "missing")
    values = content | {key: tuple(content[key]) for key in lists}
    values["files"] = tuple(File(**each | {"pieces": tuple(each["pieces"])}) for each in content["files"])
    values["folders"] = tuple(Folder(**each) for each in content["folders"])
    for each in (*values["files"], *values["folders"]):
        _require_inside(each.path, values["parts"])
    return Manifest(**values)


def _require_inside(path: str, parts: tuple[str, ...]) -> None:
    """Refuse a path that would be restored outside of its part: whoever can write the folder can write a manifest."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or pure.parts[0] not in parts or "\0" in path:
        raise SettingsError("BACKUP_DAMAGED", f"the backup names {path[:80]!r}, which is outside of what it restores")


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _damaged(name: str) -> SettingsError:
    return SettingsError("BACKUP_DAMAGED", f"the manifest of backup {name} is damaged; restore another backup")
