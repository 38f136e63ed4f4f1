# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as they lie on disk: `step-00000042` with a manifest that is written last.

Beside them `kept.json` says which must stay and which go at a time; a worker that rotates and a service that changes it
exclude each other by a lock on the folder.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetree_data.durable_files import replace_file
from finetree_data.weights.errors import WeightsError
from finetree_data.weights.safetensors_file import read_header

MANIFEST = "manifest.json"
"""Written last: a folder without it does not count."""
WEIGHTS = "weights.safetensors"
"""The trained weights, by their names in the model that was trained."""
PORTABLE = "portable.json"
"""How other programs name the weights, and the configuration that they need; missing where none loads them."""
KEPT = "kept.json"
MAX_JSON_BYTES = 64 * 1024 * 1024
"""Largest manifest or state that is read: of models with a hundred thousand tensors they have a tenth of it."""
_NAME = re.compile(r"step-(\d{8,})")
_REMEDY = "Take another checkpoint of the job."


@dataclass(frozen=True, slots=True)
class CheckpointFolder:
    """A checkpoint on disk. `sha256` is that of its manifest, which holds the hashes of all its files."""

    folder: Path
    step: int
    sha256: str
    size_bytes: int


@dataclass(slots=True)
class Kept:
    """Steps whose checkpoints are pinned, and times at which others go, in microseconds since 1970 by step.

    `requests` are those that made the newest changes, by what names them, each with what it was about and its reply:
    whoever asks again before they are known elsewhere is answered by them.
    """

    pinned: set[int] = field(default_factory=set)
    expire_times: dict[int, int] = field(default_factory=dict)
    requests: dict[str, tuple[str, bytes]] = field(default_factory=dict)


def read_kept(folder: Path) -> Kept:
    """Return what a job's checkpoint folder says of its checkpoints; of a damaged file nothing."""
    try:
        found = read_json(folder / KEPT)
        times = {int(step): int(time) for step, time in dict(found["expire_times"]).items()}
        # Earlier releases wrote none.
        answers = {str(key): (str(about), bytes.fromhex(reply)) for key, about, reply in found.get("requests", ())}
        return Kept({int(step) for step in found["pinned"]}, times, answers)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Kept()


def write_kept(folder: Path, kept: Kept) -> None:
    """Replace what is said of a folder's checkpoints; the caller holds `locked`."""
    content = {
        "pinned": sorted(kept.pinned),
        "expire_times": {str(step): time for step, time in kept.expire_times.items()},
        "requests": [(key, about, reply.hex()) for key, (about, reply) in kept.requests.items()],
    }
    replace_file(folder / KEPT, json.dumps(content, sort_keys=True).encode() + b"\n")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process from rotating, pinning or deleting checkpoints of a folder meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def discard(folder: Path, step: int) -> Path | None:
    """Take a checkpoint out of the folder by one rename, and return where its files are; the caller holds `locked`.

    The name is that of a draft, so that what a kill leaves of it is removed with those. None where there is none.
    """
    trash = folder / f".{folder_name(step)}.{os.getpid()}.removed"
    shutil.rmtree(trash, ignore_errors=True)
    try:
        (folder / folder_name(step)).rename(trash)
    except OSError:
        return None
    return trash


def read_json(file: Path) -> Any:
    """Read a JSON file of bounded size. Raises OSError, ValueError; also for one that is too large or too deep."""
    if file.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{file.name} is larger than {MAX_JSON_BYTES} bytes")
    try:
        return json.loads(file.read_bytes())
    except RecursionError as error:
        raise ValueError(f"{file.name} is nested too deep") from error


def folder_name(step: int) -> str:
    """Return the name of a checkpoint's folder."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """Return the step of a checkpoint's folder by its name; None for another name."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found is not None else None


def steps(folder: Path) -> list[int]:
    """Return the steps that a job's checkpoint folder has a folder for, whole or not, in ascending order."""
    try:
        names = [path.name for path in folder.iterdir() if path.is_dir()]
    except OSError:
        return []
    return sorted(step for name in names if (step := step_of(name)) is not None)


def read_checkpoint(folder: Path) -> CheckpointFolder:
    """Read a checkpoint's manifest, and check that its files are there and its weights not cut off.

    Its files are not hashed: whoever loads them does that. Raises WeightsError.
    """
    try:
        manifest, content = read_json(folder / MANIFEST), (folder / MANIFEST).read_bytes()
        files, step = dict(manifest["files"]), int(manifest["step"])
        size = sum((folder / name).stat().st_size for name in files) + len(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError("is incomplete or damaged", remedy=_REMEDY) from error
    if _NAME.fullmatch(folder.name) is not None and folder.name != folder_name(step):
        raise WeightsError("is that of another step", remedy=_REMEDY)
    if WEIGHTS not in files:
        raise WeightsError("holds no weights", remedy=_REMEDY)
    read_header(folder / WEIGHTS)
    return CheckpointFolder(folder, step, hashlib.sha256(content).hexdigest(), size)
