# SPDX-License-Identifier: Apache-2.0
"""What was measured of each model, kept until the job ends: an attempt that follows a killed one measures the rest."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetree_data.durable_files import make_folder, replace_file

from finetree_worker.atomic_files import hash_of, storage_errors
from finetree_worker.training.evaluation.metrics import Choice, RowScore

Kept = tuple[Sequence[RowScore], Sequence[RowScore]]
"""Scores of the held-out rows and of the general texts."""


class Results:
    """Results in a folder, by the number of the model; those of another `key` do not count."""

    def __init__(self, folder: Path, *parts: str) -> None:
        """`parts` decide the results: settings, hashes of files, versions."""
        self._folder, self._key = folder, hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def load(self, number: int) -> Kept | None:
        """Return what was kept of a model; None where nothing was, or it cannot be read."""
        try:
            found: dict[str, Any] = json.loads(self._file(number).read_text(encoding="utf-8"))
            if found["key"] != self._key:
                return None
            return [_score(one) for one in found["scores"]], [_score(one) for one in found["general"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, number: int, kept: Kept) -> None:
        """Keep what was measured of a model. Raises StorageError."""
        scores, general = kept
        content = {"key": self._key, "scores": list(map(asdict, scores)), "general": list(map(asdict, general))}
        with storage_errors():
            make_folder(self._folder)
            replace_file(self._file(number), json.dumps(content).encode())

    def clear(self, numbers: Sequence[int]) -> None:
        """Remove what was kept: the report holds it."""
        for number in numbers:
            self._file(number).unlink(missing_ok=True)

    def _file(self, number: int) -> Path:
        return self._folder / f"evaluated-{number}.json"


def file_hash(path: Path) -> str:
    """Return the sha256 (hex) of a file. Raises StorageError."""
    with storage_errors():
        return hash_of(path)


def _score(kept: dict[str, Any]) -> RowScore:
    return RowScore(**{**kept, "choices": tuple(Choice(**choice) for choice in kept["choices"])})
