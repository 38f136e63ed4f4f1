# SPDX-License-Identifier: Apache-2.0
"""The base model that a process keeps loaded from one task to the next."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from finetree_worker.models.load import load_model
from finetree_worker.models.pristine import Pristine


@dataclass(frozen=True, slots=True)
class BaseSettings:
    """Everything that decides what `load_model` returns, its arguments and the state of the folder's files."""

    folder: Path
    dtype: torch.dtype
    device: torch.device
    quantization: str
    attention: str
    files: tuple[tuple[str, int, int, int], ...]
    """Name, bytes, time of change (ns) and inode of each file."""


@dataclass(frozen=True, slots=True)
class _Kept:
    settings: BaseSettings
    model: PreTrainedModel
    pristine: Pristine


class Bases:
    """Loads base models, and keeps the newest one where it is told to.

    A kept base is given out once, to be changed at will; `settle` takes it back, and drops it unless it is proven to be
    as it was loaded.
    """

    def __init__(self, *, keep: bool) -> None:
        """`keep`: whether another task may come that needs the same base."""
        self.keep = keep
        self.loads = 0
        """How often a base was loaded."""
        self.reused = False
        """Whether the base that was given out last had been loaded before."""
        self._kept: _Kept | None = None

    def load(
        self,
        folder: Path,
        dtype: torch.dtype,
        *,
        device: torch.device,
        quantization: BitsAndBytesConfig | None = None,
        attention: str = "sdpa",
        unchanged: bool = True,
    ) -> PreTrainedModel:
        """Return the model that `load_model` returns for the same arguments; raises as it does.

        `unchanged`: whether the task leaves the base's own weights as they are; a base that is trained is not kept.
        """
        described = json.dumps(quantization.to_dict(), sort_keys=True, default=str) if quantization is not None else ""
        wanted = BaseSettings(folder, dtype, device, described, attention, _files(folder))
        if self._kept is not None and self._kept.settings == wanted and unchanged:
            self.reused = True
            return self._kept.model
        # The one before goes first: both may not fit.
        self.drop()
        self.reused = False
        model = load_model(folder, dtype, device=device, quantization=quantization, attention=attention)
        self.loads += 1
        if self.keep and unchanged:
            self._kept = _Kept(wanted, model, Pristine(model))
        return model

    def settle(self) -> bool:
        """Put the kept base back as it was loaded; return whether there is one, proven to be so."""
        if self._kept is not None and not self._kept.pristine.restore():
            self.drop()
        return self._kept is not None

    def drop(self) -> None:
        """Keep no base."""
        self._kept = None


def _files(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    try:
        found = [(file.name, file.stat()) for file in sorted(folder.iterdir())]
    except OSError:
        return ()  # load_model says what is wrong with it
    return tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in found)
