# SPDX-License-Identifier: Apache-2.0
"""Folders that appear whole or not at all, with the hashes of what is in them."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetree_data.durable_files import DISK_FULL, make_folder, sync_folder
from finetree_data.fail_points import fail_point
from finetree_data.weights.checkpoint import read_json

from finetree_worker.errors import StorageError

MANIFEST = "manifest.json"
"""Written last: a folder without it, or whose files differ from it, does not count."""


@contextmanager
def atomic_folder(target: Path, facts: dict[str, Any]) -> Iterator[Path]:
    """Yield a temporary folder beside `target`: renamed to it when the block succeeds, deleted when it raises.

    All files are flushed to the disk; a manifest with `facts` and the sha256 of every file is written last. Raises
    StorageError: DISK_FULL, STORAGE_FAILED, or OUTPUT_EXISTS when another writer was first.
    """
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with storage_errors():
        shutil.rmtree(draft, ignore_errors=True)
        make_folder(target.parent)
        draft.mkdir()
    try:
        with storage_errors():
            yield draft
            seal(draft, facts)
            if target.exists():
                raise StorageError("OUTPUT_EXISTS", f"Another process has written {target.name!r} meanwhile.")
            fail_point("folder.before_rename")
            draft.rename(target)
            fail_point("folder.after_rename")
            sync_folder(target.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn errors of the disk into StorageError DISK_FULL or STORAGE_FAILED, whichever library raised them."""
    try:
        yield
    except OSError as error:
        full = error.errno in DISK_FULL
        raise _storage_error(full=full) from error
    except Exception as error:
        # safetensors writes in Rust and reports the system's errors by text.
        if type(error).__name__ == "SafetensorError" and "os error" in str(error):
            raise _storage_error(full=any(f"os error {code})" in str(error) for code in DISK_FULL)) from error
        raise


def _storage_error(*, full: bool) -> StorageError:
    if full:
        return StorageError("DISK_FULL", "The disk is full.", remedy="Free space, then start the task again.")
    return StorageError("STORAGE_FAILED", "Writing to the disk failed.", remedy="See the trainer's log.")


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Flush every file of `folder` and the folders in it, and write the manifest over them."""
    for path in contents(folder):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    for path in folder.rglob("*/"):
        sync_folder(path)
    fail_point("folder.before_manifest")
    text = json.dumps({**facts, "files": hashes(folder)}, indent=2, sort_keys=True) + "\n"
    with (folder / MANIFEST).open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    sync_folder(folder)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a whole folder; None where it is missing or unreadable, or a file differs from it."""
    try:
        manifest = read_json(folder / MANIFEST)
        recorded = manifest["files"]
        return manifest if isinstance(recorded, dict) and recorded == hashes(folder) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def recorded_hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 (hex) of each file as the manifest of a whole folder has it; the files are not read again."""
    recorded: dict[str, str] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    return recorded


def manifest_hash(folder: Path) -> str:
    """Return the sha256 (hex) of a whole folder's manifest, which holds the hashes of all its files."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 (hex) of each file but the manifest, by path relative to `folder`."""
    return {path.relative_to(folder).as_posix(): hash_of(path) for path in contents(folder)}


def hash_of(file: Path) -> str:
    """Return the sha256 (hex) of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def contents(folder: Path) -> list[Path]:
    """Return all files below `folder` but the manifest, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def size(folder: Path) -> int:
    """Return the size of all files below `folder` in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
