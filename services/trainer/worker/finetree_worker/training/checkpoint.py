# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: the whole state of a run, in safetensors and JSON, never pickle.

Data order, dropout and schedule are functions of the step, so the step alone is their state.
"""

import json
import math
import platform
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from finetree_data.weights import checkpoint as checkpoint_files
from finetree_data.weights.checkpoint import WEIGHTS, folder_name
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from finetree_worker.atomic_files import MANIFEST, atomic_folder, read_manifest
from finetree_worker.errors import CheckpointError
from finetree_worker.portable import Portable
from finetree_worker.randomness import MASKS
from finetree_worker.ranks.alone import Alone
from finetree_worker.training import optimizers
from finetree_worker.training.fused.levers import in_force

_OPTIMIZER, _STATE = "optimizer.safetensors", "state.json"
FORMAT = 1
"""Version of a checkpoint's layout."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Libraries and hardware that decide the order of floating-point sums: with others a run is equal to rounding.

    `masks` is the version of the function that makes dropout masks: with another one a run has other random numbers.
    """

    torch_version: str
    transformers_version: str
    peft_version: str
    machine: str
    threads: int
    device: str
    masks: int = 1
    ways: str = ""
    """Faster ways of the step that round otherwise than the plain one; checkpoints of older workers have none."""

    @classmethod
    def here(cls, threads: int, device: torch.device, several: str = "") -> "Environment":
        """Return the environment of this process; `several` says how many devices there are, where it is not one."""
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
        torch_, transformers, peft = (version(name) for name in ("torch", "transformers", "peft"))
        ways = in_force(device.type)
        return cls(torch_, transformers, peft, platform.machine(), threads, kind + several, MASKS, ways)


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


@dataclass(frozen=True, slots=True)
class Damaged:
    """A checkpoint of this run that was passed over, and why, as a sentence."""

    step: int
    why: str


def save(
    folder: Path,
    trainable: dict[str, nn.Parameter],
    optimizer: Optimizer,
    *,
    position: Position,
    environment: Environment,
    numerics_hash: str,
    portable: Portable | None = None,
    replaced: Collection[int] = (),
    ranks: Alone | None = None,
) -> Path:
    """Write checkpoint `step-<n>` below `folder` atomically; a whole one of this run that is there is kept.

    Those of the steps `replaced` are written anew: a restore has found them damaged, though their manifests fit.

    All ranks call it; weights that they have divided are gathered, and the speaker writes them.

    Raises StorageError (DISK_FULL, STORAGE_FAILED); earlier checkpoints are intact then.
    """
    ranks = ranks or Alone()
    target = folder / folder_name(position.step)
    tensors, values = optimizers.state_tensors(optimizer)
    weights, tensors = ranks.whole(trainable), ranks.whole(tensors)
    if not ranks.speaks:
        return target
    if position.step not in replaced and _whole(target, numerics_hash) is not None:
        return target
    shutil.rmtree(target, ignore_errors=True)
    state = {"position": asdict(position), "environment": asdict(environment), "optimizer": values}
    with atomic_folder(target, {"format": FORMAT, "step": position.step, "numerics_hash": numerics_hash}) as draft:
        save_file({name: p.detach().contiguous() for name, p in weights.items()}, draft / WEIGHTS)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft / _OPTIMIZER)
        (draft / _STATE).write_text(json.dumps(state, sort_keys=True) + "\n", encoding="utf-8")
        if portable is not None:
            portable.write(draft)
    return target


def newest(folder: Path, numerics_hash: str) -> Checkpoint | None:
    """Return the newest whole checkpoint of this run below `folder`; half-written and damaged ones are skipped."""
    candidates = (folder / folder_name(step) for step in reversed(checkpoint_files.steps(folder)))
    return next((found for path in candidates if (found := _whole(path, numerics_hash)) is not None), None)


def restore_newest(
    folder: Path,
    numerics_hash: str,
    trainable: dict[str, nn.Parameter],
    optimizer: Optimizer,
    ranks: Alone | None = None,
) -> tuple[Checkpoint | None, list[Damaged]]:
    """Copy the newest checkpoint of this run that is whole into the run's weights and optimizer.

    Returns it, None where there is none, and the damaged ones that were passed over; half-written ones and those of
    other runs are not among them. Where no checkpoint is whole, the optimizer's state may be that of a damaged one.
    """
    passed: list[Damaged] = []
    for step in reversed(checkpoint_files.steps(folder)):
        place = folder / folder_name(step)
        found = _whole(place, numerics_hash)
        if found is not None:
            why = _restored(found, trainable, optimizer, ranks)
            if not why:
                return found, passed
            passed.append(Damaged(step, why))
        elif _claims_run(place, numerics_hash):
            passed.append(Damaged(step, "Its manifest, its state and its files do not agree."))
    return None, passed


def _restored(found: Checkpoint, trainable: dict[str, nn.Parameter], optimizer: Optimizer, ranks: Alone | None) -> str:
    """Restore a checkpoint; return why that was not possible, as a sentence, else nothing."""
    try:
        restore(found, trainable, optimizer, ranks)
    except CheckpointError as error:
        return error.message
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        return "Its optimizer state cannot be read."
    return ""


def newest_of_other_format(folder: Path) -> tuple[int, int] | None:
    """Return step and format of the newest whole checkpoint that another version wrote in a format unknown here."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        manifest = _stated(path)
        # The files are hashed only where it counts: a checkpoint may be large.
        if _other_format(manifest) and read_manifest(path) is not None:
            return int(path.name.rpartition("-")[2]), int(manifest["format"])
    return None


def passed_over_format(folder: Path, found: Checkpoint | None) -> str:
    """Say that a newer checkpoint than the one `found` is in an unknown format; empty where none is.

    Raises CheckpointError CHECKPOINT_FORMAT_UNSUPPORTED where nothing was found to go on from.
    """
    other = newest_of_other_format(folder)
    if other is None or (found is not None and found.position.step >= other[0]):
        return ""
    step, version = other
    text = f"The checkpoint of step {step} is in format {version}; this worker reads format {FORMAT}"
    if found is None:
        raise CheckpointError(
            "CHECKPOINT_FORMAT_UNSUPPORTED",
            f"{text}, and there is no other one to go on from.",
            remedy="Start a trainer of the version that wrote it, or train anew.",
        )
    return f"{text}; the run goes on from step {found.position.step}."


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
    """Return a checkpoint of this run; None where its manifest is sealed over what is no checkpoint's content."""
    manifest = _manifest(folder, numerics_hash)
    if manifest is None:
        return None
    try:
        state = checkpoint_files.read_json(folder / _STATE)
        position, environment = Position(**state["position"]), Environment(**state["environment"])
        state["optimizer"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if manifest.get("step") != position.step or folder.name != folder_name(position.step) or not _sound(position):
        return None
    return Checkpoint(folder, position, environment, numerics_hash)


def _sound(position: Position) -> bool:
    """Return whether every number of a position has its type, and counts are not negative."""
    for field in fields(Position):
        value, kind = getattr(position, field.name), field.type
        if kind == "bool" or kind is bool:
            fits = isinstance(value, bool)
        elif kind == "int" or kind is int:
            fits = type(value) is int and value >= 0
        else:
            fits = value is None or (type(value) in (int, float) and math.isfinite(value))
        if not fits:
            return False
    return True


def _claims_run(folder: Path, numerics_hash: str) -> bool:
    """Return whether a folder that is not whole has a manifest, which is written last, of this run or of none."""
    try:
        manifest = checkpoint_files.read_json(folder / MANIFEST)
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True
    if not isinstance(manifest, dict):
        return True
    return manifest.get("numerics_hash") in (None, numerics_hash) and not _other_format(manifest)


def restore(
    found: Checkpoint, trainable: dict[str, nn.Parameter], optimizer: Optimizer, ranks: Alone | None = None
) -> None:
    """Copy a checkpoint's weights and optimizer state into the run's, of what is divided this rank's part.

    Raises CheckpointError: CHECKPOINT_MISMATCH, or CHECKPOINT_UNREADABLE for a file that is no safetensors file.
    """
    _require_shapes(found, trainable)
    state: dict[str, Any] = checkpoint_files.read_json(found.folder / _STATE)
    optimizers.load_state(optimizer, _load(found.folder / _OPTIMIZER), state["optimizer"], ranks)
    restore_weights(found, trainable, ranks)


def _require_shapes(found: Checkpoint, trainable: dict[str, nn.Parameter]) -> None:
    """Raise CheckpointError CHECKPOINT_MISMATCH unless the weights fit, before anything of the run is changed."""
    shapes = {name: tensor.shape for name, tensor in _load(found.folder / WEIGHTS).items()}
    if shapes != {name: parameter.shape for name, parameter in trainable.items()}:
        raise _mismatch()


def _mismatch() -> CheckpointError:
    return CheckpointError("CHECKPOINT_MISMATCH", "The checkpoint's layers are not those that this run trains.")


def restore_weights(found: Checkpoint, trainable: dict[str, nn.Parameter], ranks: Alone | None = None) -> None:
    """Copy a checkpoint's weights into the run's. Raises as `restore`."""
    weights, ranks = _load(found.folder / WEIGHTS), ranks or Alone()
    if weights.keys() != trainable.keys():
        raise _mismatch()
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(ranks.place(weights[name], parameter))


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


def rotate(folder: Path, keep: int, numerics_hash: str, *, best: int = 0) -> None:
    """Delete this run's checkpoints but the newest `keep`, that of step `best` and those that are pinned.

    Half-written ones do not count among the newest, nor do those of another run, which may be of later steps. Pinned
    ones stay, and count among the newest. Which one is the best, the run knows by its position, hence by each of its
    checkpoints: a note beside them could be older than what was saved.
    """
    with checkpoint_files.locked(folder):
        kept = checkpoint_files.read_kept(folder).pinned | {best}
        whole = [s for s in checkpoint_files.steps(folder) if _names_run(folder / folder_name(s), numerics_hash)]
        old = [step for step in whole[: max(0, len(whole) - keep)] if step not in kept]
        removed = [checkpoint_files.discard(folder, step) for step in old]
    for trash in removed:
        if trash is not None:
            shutil.rmtree(trash, ignore_errors=True)


def _names_run(folder: Path, numerics_hash: str) -> bool:
    """Return whether a checkpoint's manifest names this run, without hashing its files."""
    return bool(_stated(folder).get("numerics_hash") == numerics_hash)


def _other_format(manifest: dict[str, Any]) -> bool:
    """Return whether a manifest states a format that another version writes."""
    return type(manifest.get("format")) is int and manifest["format"] != FORMAT


def _stated(folder: Path) -> dict[str, Any]:
    """Return what a checkpoint's manifest states, without a look at its files; nothing where it is unreadable."""
    try:
        manifest = checkpoint_files.read_json(folder / MANIFEST)
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}
