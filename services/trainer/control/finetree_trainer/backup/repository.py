# SPDX-License-Identifier: Apache-2.0
"""The folder that keeps backups: pieces of files by their SHA-256, and a manifest for each backup, written last.

    FOLDER/finetree-backups.json   says what the folder is
    FOLDER/lock                    held by whoever writes; shared by those who read
    FOLDER/pieces/ab/abcd…         a piece of one or more files, once for each content; never changed
    FOLDER/backups/ID.json         manifests
    FOLDER/drafts/                 what is not complete; emptied by the next backup

A piece has its name only once its bytes are on the disk, and a manifest only once all its pieces are. So a backup that
is cut off anywhere leaves nothing that could be taken for a whole one, and rsync or restic can copy the folder.
"""

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from finetree_data.durable_files import draft_of, replace_file, sync_folder
from finetree_data.fail_points import fail_point
from finetree_runtime.config.settings import SettingsError

from finetree_trainer.backup.manifest import FORMAT, File, Manifest, from_bytes, to_bytes
from finetree_trainer.disk import private_folder

PIECE_BYTES = 4 * 1024 * 1024
"""Bytes of a piece. Of a database and of a growing log only the pieces that changed are new in the next backup."""
MARKER, LOCK = "finetree-backups.json", "lock"

OnBytes = Callable[[int], None]
"""Called with the number of bytes that were read or written since the last call."""


@dataclass(slots=True)
class Findings:
    """What a check of pieces and manifests found; everything is whole where `damaged` is empty.

    Attributes:
        backups: backups that were checked.
        pieces: pieces that were read, and their bytes.
        damaged: what is wrong, one sentence each, by the backup that needs it.
    """

    backups: list[str] = field(default_factory=list)
    pieces: int = 0
    size_bytes: int = 0
    damaged: dict[str, list[str]] = field(default_factory=dict)


class Repository:
    """A folder of backups."""

    def __init__(self, folder: Path) -> None:
        """Open a folder. Raises SettingsError BACKUP_FOLDER_UNKNOWN where it keeps no backups."""
        self.folder = folder
        self._pieces, self._backups = folder / "pieces", folder / "backups"
        self.drafts = folder / "drafts"
        """For files that are not complete, on the same disk."""
        self.written = 0
        """Bytes that were not there before."""
        try:
            format_ = json.loads((folder / MARKER).read_bytes())["format"]
        except (OSError, ValueError, KeyError, TypeError):
            text = "the folder keeps no backups; name the one that `finetree backup create` was given"
            raise SettingsError("BACKUP_FOLDER_UNKNOWN", text) from None
        if format_ != FORMAT:
            raise SettingsError("BACKUP_FORMAT_UNSUPPORTED", f"the folder has format {format_!r}; use a newer release")

    @classmethod
    def made(cls, folder: Path) -> "Repository":
        """Open a folder, made where there is none. Raises SettingsError where it holds something else."""
        private_folder(folder)
        if not (folder / MARKER).exists():
            others = sorted(path.name for path in folder.iterdir() if path.name != "lost+found")
            if others and others != [draft_of(folder / MARKER).name]:
                text = f"the folder holds {others[0]!r} and no backups; name an empty folder or one with backups"
                raise SettingsError("BACKUP_FOLDER_NOT_EMPTY", text)
            replace_file(folder / MARKER, json.dumps({"format": FORMAT}).encode() + b"\n", private=True)
        found = cls(folder)
        for each in (found._pieces, found._backups, found.drafts):
            private_folder(each)
        return found

    @contextmanager
    def locked(self, *, writing: bool) -> Iterator[None]:
        """Keep others from writing meanwhile. Raises SettingsError BACKUP_IN_PROGRESS while somebody does."""
        flags = os.O_CREAT | os.O_RDWR if writing else os.O_RDONLY
        try:
            descriptor = os.open(self.folder / LOCK, flags | os.O_CLOEXEC, 0o600)
        except OSError:
            if writing:
                raise
            yield  # a copy on a medium that nobody writes to
            return
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if writing else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise SettingsError("BACKUP_IN_PROGRESS", "another backup or check uses the folder; wait for it") from None
        finally:
            os.close(descriptor)

    # ------------------------------------------------------------------------------------------------- files

    def put(self, path: str, stream: BinaryIO, *, limit: int | None = None, on_bytes: OnBytes) -> File:
        """Keep what a stream has to its end, or `limit` bytes of it; the time of the file is that of the stream."""
        whole, pieces, size = hashlib.sha256(), [], 0
        while limit is None or size < limit:
            content = stream.read(PIECE_BYTES if limit is None else min(PIECE_BYTES, limit - size))
            if not content:
                break
            whole.update(content)
            pieces.append(self._put_piece(content))
            size += len(content)
            on_bytes(len(content))
        modified = os.fstat(stream.fileno()).st_mtime_ns
        return File(path, size, modified, whole.hexdigest(), tuple(pieces))

    def _put_piece(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        place = self._place(digest)
        with suppress(OSError):
            if place.stat().st_size == len(content):
                return digest
        private_folder(place.parent)
        draft = self.drafts / secrets.token_hex(8)
        try:
            with draft.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            draft.chmod(0o400)
            draft.replace(place)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        self.written += len(content)
        fail_point("backup.after_piece")
        return digest

    def has(self, file: File) -> bool:
        """Whether every piece of a file is there, by name; `verify` reads them."""
        return all(self._place(piece).is_file() for piece in file.pieces)

    def read(self, file: File) -> Iterator[bytes]:
        """Yield a file's bytes, each piece checked. Raises SettingsError BACKUP_DAMAGED."""
        for digest in file.pieces:
            content = self._read_piece(digest)
            if content is None:
                text = f"piece {digest} of {file.path} is damaged or missing; restore another backup"
                raise SettingsError("BACKUP_DAMAGED", text)
            yield content

    def _read_piece(self, digest: str) -> bytes | None:
        try:
            content = self._place(digest).read_bytes()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == digest else None

    def _place(self, digest: str) -> Path:
        if len(digest) != 64 or not digest.isalnum():
            raise SettingsError("BACKUP_DAMAGED", f"{digest[:80]!r} is no name of a piece")
        return self._pieces / digest[:2] / digest

    # ----------------------------------------------------------------------------------------------- backups

    def ids(self) -> list[str]:
        """Return the backups that are complete, oldest first."""
        return sorted(path.stem for path in self._backups.glob("*.json"))

    def load(self, backup: str) -> Manifest:
        """Read a manifest. Raises SettingsError BACKUP_NOT_FOUND, BACKUP_DAMAGED."""
        if backup not in self.ids():
            text = f"there is no backup {backup[:80]!r}; `finetree backup list` shows those that there are"
            raise SettingsError("BACKUP_NOT_FOUND", text)
        return from_bytes(backup, (self._backups / f"{backup}.json").read_bytes())

    def complete(self, manifest: Manifest) -> None:
        """Write a manifest, whose pieces are all there: from here on the backup exists."""
        for folder in (*self._pieces.iterdir(), self._pieces):
            sync_folder(folder)
        fail_point("backup.before_manifest")
        replace_file(self._backups / f"{manifest.id}.json", to_bytes(manifest), private=True)

    def remove_drafts(self) -> None:
        """Remove what backups that were cut off have left half written."""
        for draft in self.drafts.iterdir():
            draft.unlink(missing_ok=True)

    def verify(self, backups: list[str], on_bytes: OnBytes) -> Findings:
        """Read every piece of some backups once, and compare it with its hash."""
        found = Findings()
        checked: dict[str, bool] = {}
        for backup in backups:
            found.backups.append(backup)
            try:
                manifest = self.load(backup)
            except SettingsError as error:
                found.damaged[backup] = [str(error)]
                continue
            for file in manifest.files:
                for piece in file.pieces:
                    if piece not in checked:
                        content = self._read_piece(piece)
                        checked[piece] = content is not None
                        found.pieces += 1
                        found.size_bytes += len(content or b"")
                        on_bytes(len(content or b""))
                    if not checked[piece]:
                        text = f"{file.path}: piece {piece} is damaged or missing"
                        found.damaged.setdefault(backup, []).append(text)
        return found

    def prune(self, keep: int) -> tuple[list[str], int]:
        """Remove all but the newest backups and the pieces that only those had; return them and the bytes freed.

        Raises SettingsError BACKUP_DAMAGED, having removed nothing, where a manifest that stays cannot be read: its
        pieces are not known.
        """
        backups = self.ids()
        gone = backups[:-keep]
        needed = {piece for each in backups[-keep:] for file in self.load(each).files for piece in file.pieces}
        for each in gone:
            (self._backups / f"{each}.json").unlink()
        sync_folder(self._backups)
        freed = 0
        for folder in self._pieces.iterdir():
            for piece in folder.iterdir():
                if piece.name not in needed:
                    freed += piece.stat().st_size
                    piece.unlink()
        return gone, freed
