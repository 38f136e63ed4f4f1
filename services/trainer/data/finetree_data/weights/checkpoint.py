# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as they lie on disk: `step-00000042` with a manifest that is written last."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from finetree_data.weights.errors import WeightsError
from finetree_data.weights.safetensors_file import read_header

MANIFEST = "manifest.json"
"""Written last: a folder without it does not count."""
WEIGHTS = "weights.safetensors"
"""The trained weights, by their names in the model that was trained."""
_NAME = re.compile(r"step-(\d{8,})")
_REMEDY = "Take another checkpoint of the job."


@dataclass(frozen=True, slots=True)
class CheckpointFolder:
    """A checkpoint on disk. `sha256` is that of its manifest, which holds the hashes of all its files."""

    folder: Path
    step: int
    sha256: str
    size_bytes: int


def folder_name(step: int) -> str:
    """Return the name of a checkpoint's folder."""
    return f"step-{step:08d}"


def steps(folder: Path) -> list[int]:
    """Return the steps that a job's checkpoint folder has a folder for, whole or not, in ascending order."""
    try:
        names = [path.name for path in folder.iterdir() if path.is_dir()]
    except OSError:
        return []
    return sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name)) is not None)


def read_checkpoint(folder: Path) -> CheckpointFolder:
    """Read a checkpoint's manifest, and check that its files are there and its weights not cut off.

    Its files are not hashed: whoever loads them does that. Raises WeightsError.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
        manifest = json.loads(content)
        files, step = dict(manifest["files"]), int(manifest["step"])
        size = sum((folder / name).stat().st_size for name in files) + len(content)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError("is incomplete or damaged", remedy=_REMEDY) from error
    if WEIGHTS not in files:
        raise WeightsError("holds no weights", remedy=_REMEDY)
    read_header(folder / WEIGHTS)
    return CheckpointFolder(folder, step, hashlib.sha256(content).hexdigest(), size)
