# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: the whole state of a run, in safetensors and JSON, never pickle.

Data order, dropout and schedule are functions of the step, so the step alone is their state.
"""

import json
import platform
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from finetree_data.weights.checkpoint import WEIGHTS, folder_name
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from finetree_worker.atomic_files import MANIFEST, atomic_folder, read_manifest
from finetree_worker.errors import CheckpointError
from finetree_worker.training import optimizers

_OPTIMIZER, _STATE = "optimizer.safetensors", "state.json"
_BEST = "best.json"
FORMAT = 1
"""Version of a checkpoint's layout."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Libraries and hardware that decide the order of floating-point sums: with others a run is equal to rounding."""

    torch_version: str
    transformers_version: str
    peft_version: str
    machine: str
    threads: int
    device: str

    @classmethod
    def here(cls, threads: int, device: torch.device) -> "Environment":
        """Return the environment of this process."""
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
        torch_, transformers, peft = (version(name) for name in ("torch", "transformers", "peft"))
        return cls(torch_, transformers, peft, platform.machine(), threads, kind)


@dataclass(frozen=True, slots=True)
class Position:
    """State of a run besides its weights: steps done, tokens seen, and what early stopping and loss scaling need."""

    step: int
    tokens: int
    target_tokens: int
    elapsed_seconds: float
    non_finite_in_a_row: int = 0
    best_value: float | None = None
    micro_batch_tokens: int = 0
    micro_batch_rows: int = 0
    best_step: int = 0
    evaluations_without_gain: int = 0
    loss_scale: float = 0.0
    """Factor on the loss, and steps since it last changed; 0 where none was kept."""
    loss_scale_calm: int = 0
    stopped: bool = False
    """Training ended early, or the weights are the best evaluation's: no step may follow."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path
    position: Position
    environment: Environment
    numerics_hash: str


def save(
    folder: Path,
    trainable: dict[str, nn.Parameter],
    optimizer: Optimizer,
    *,
    position: Position,
    environment: Environment,
    numerics_hash: str,
) -> Path:
    """Write checkpoint `step-<n>` below `folder` atomically; one of this run that is there already is kept.

    Raises StorageError (DISK_FULL, STORAGE_FAILED); earlier checkpoints are intact then.
    """
    target = folder / folder_name(position.step)
    if _manifest(target, numerics_hash) is not None:
        return target
    shutil.rmtree(target, ignore_errors=True)
    tensors, values = optimizers.state_tensors(optimizer)
    state = {"position": asdict(position), "environment": asdict(environment), "optimizer": values}
    with atomic_folder(target, {"format": FORMAT, "step": position.step, "numerics_hash": numerics_hash}) as draft:
        save_file({name: p.detach().contiguous() for name, p in trainable.items()}, draft / WEIGHTS)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft / _OPTIMIZER)
        (draft / _STATE).write_text(json.dumps(state, sort_keys=True) + "\n", encoding="utf-8")
    return target


def newest(folder: Path, numerics_hash: str) -> Checkpoint | None:
    """Return the newest whole checkpoint of this run below `folder`; half-written and damaged ones are skipped."""
    candidates = sorted(folder.glob("step-*"), reverse=True)
    return next((found for path in candidates if (found := _whole(path, numerics_hash)) is not None), None)


def newest_of_other_format(folder: Path) -> tuple[int, int] | None:
    """Return step and format of the newest whole checkpoint that another version wrote in a format unknown here."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        manifest = _stated(path)
        # The files are hashed only where it counts: a checkpoint may be large.
        if manifest.get("format", FORMAT) != FORMAT and read_manifest(path) is not None:
            return int(manifest.get("step", 0)), int(manifest["format"])
    return None


def at_step(folder: Path, step: int, numerics_hash: str) -> Checkpoint | None:
    """Return this run's checkpoint of one step; None where it is missing or damaged."""
    return _whole(folder / folder_name(step), numerics_hash)


def _manifest(folder: Path, numerics_hash: str) -> dict[str, Any] | None:
    """Return the manifest of a whole checkpoint of this run; None for others."""
    manifest = read_manifest(folder)
    if manifest is None or manifest.get("numerics_hash") != numerics_hash or manifest.get("format") != FORMAT:
        return None
    return manifest


def _whole(folder: Path, numerics_hash: str) -> Checkpoint | None:
    if _manifest(folder, numerics_hash) is None:
        return None
    state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    return Checkpoint(folder, Position(**state["position"]), Environment(**state["environment"]), numerics_hash)


def restore(found: Checkpoint, trainable: dict[str, nn.Parameter], optimizer: Optimizer) -> None:
    """Copy a checkpoint's weights and optimizer state into the run's.

    Raises CheckpointError: CHECKPOINT_MISMATCH, or CHECKPOINT_UNREADABLE for a file that is no safetensors file.
    """
    restore_weights(found, trainable)
    state: dict[str, Any] = json.loads((found.folder / _STATE).read_text(encoding="utf-8"))
    optimizers.load_state(optimizer, _load(found.folder / _OPTIMIZER), state["optimizer"])


def restore_weights(found: Checkpoint, trainable: dict[str, nn.Parameter]) -> None:
    """Copy a checkpoint's weights into the run's. Raises as `restore`."""
    weights = _load(found.folder / WEIGHTS)
    if weights.keys() != trainable.keys():
        raise CheckpointError("CHECKPOINT_MISMATCH", "The checkpoint's layers are not those that this run trains.")
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(weights[name])


def _load(path: Path) -> dict[str, Tensor]:
    # Mapped, not read: the copy into place is the only one in memory.
    try:
        with safe_open(path, framework="pt") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        text, remedy = (
            f"The checkpoint's {path.name} is not a safetensors file.",
            "Delete the checkpoint, then try again.",
        )
        raise CheckpointError("CHECKPOINT_UNREADABLE", text, remedy=remedy) from error


def mark_best(folder: Path, step: int) -> None:
    """Note which checkpoint is the best: rotation keeps it."""
    draft = folder / f".{_BEST}.tmp"
    draft.write_text(json.dumps({"step": step}) + "\n", encoding="utf-8")
    draft.replace(folder / _BEST)


def best_step(folder: Path) -> int | None:
    """Return the step of the best checkpoint; None where none is noted."""
    try:
        return int(json.loads((folder / _BEST).read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def rotate(folder: Path, keep: int, numerics_hash: str) -> None:
    """Delete this run's checkpoints but the newest `keep` and the best.

    Half-written ones do not count among the newest, nor do those of another run, which may be of later steps.
    """
    best = best_step(folder)
    whole = [path for path in sorted(folder.glob("step-*")) if _names_run(path, numerics_hash)]
    for path in whole[: max(0, len(whole) - keep)]:
        if best is None or path.name != folder_name(best):
            shutil.rmtree(path, ignore_errors=True)


def _names_run(folder: Path, numerics_hash: str) -> bool:
    """Return whether a checkpoint's manifest names this run, without hashing its files."""
    return bool(_stated(folder).get("numerics_hash") == numerics_hash)


def _stated(folder: Path) -> dict[str, Any]:
    """Return what a checkpoint's manifest states, without a look at its files; nothing where it is unreadable."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}
