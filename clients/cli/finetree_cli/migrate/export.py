# SPDX-License-Identifier: Apache-2.0
"""What was exported from OpenAI: job settings, training files and recorded answers, found by their content."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetree_cli.errors import BadInput
from finetree_cli.migrate.recorded import Recorded, read_recorded

MAX_JSON_BYTES = 256 << 20
"""Largest file of one JSON document; files of lines may have any size."""
SUFFIXES = (".json", ".jsonl")
_FILE_ID = re.compile(r"file-[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class OpenAIJob:
    """A `fine_tuning.job` object as far as it matters; None and empty are not said."""

    id: str
    model: str
    training_file: str
    validation_file: str = ""
    method: str = "supervised"
    status: str = ""
    fine_tuned_model: str = ""
    n_epochs: int | None = None
    batch_size: int | None = None
    learning_rate_multiplier: float | None = None
    seed: int | None = None
    suffix: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Export:
    """An export.

    Attributes:
        jobs: in the order of their creation.
        files: files of rows by OpenAI's file id or by name.
        answers: recorded answers, of all models.
    """

    jobs: list[OpenAIJob] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    answers: list[Recorded] = field(default_factory=list)

    def file(self, name: str) -> Path | None:
        """Return the file of an id; None if the export does not have it."""
        return self.files.get(name)

    def answers_of(self, job: OpenAIJob) -> list[Recorded]:
        """Return the answers of a job's model; those that name no model belong to the only job."""
        only = len(self.jobs) == 1
        tuned = job.fine_tuned_model
        return [each for each in self.answers if (each.model == tuned if each.model else only) and (each.model or only)]


def read_export(path: Path) -> Export:
    """Read a folder, a file of job settings (rows beside it), or a file of rows alone, which is one job.

    Raises:
        BadInput: There is nothing to migrate, or a file cannot be read; the message names it.
    """
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder", reason="EXPORT_UNREADABLE")
    found, contents = Export(), _Contents()
    for file in _files_of(path):
        if _holds_rows(file):
            for name in _names_of(file):
                found.files.setdefault(name, file)
        else:
            for item in _objects(file):
                contents.add(item, file)
    for file_id, name in contents.names.items():
        if file_id not in found.files and name in found.files:
            found.files[file_id] = found.files[name]
    found.jobs = [job for _, job in sorted(contents.jobs, key=lambda pair: pair[0])]
    found.answers = read_recorded(contents.others)
    if not found.jobs and path.is_file() and found.files:
        found.jobs = [OpenAIJob(id=path.stem, model="", training_file=path.name)]
    if not found.jobs:
        remedy = "it needs the JSON of `fine_tuning.jobs.list()` or `.retrieve()`; docs/openai.md has a program for it"
        raise BadInput(f"{path}: no fine_tuning.job object in it", remedy=remedy, reason="EXPORT_EMPTY")
    return found


class _Contents:
    """Objects of an export: jobs with the time of their creation, names of files by id, and everything else."""

    def __init__(self) -> None:
        self.jobs: list[tuple[float, OpenAIJob]] = []
        self.names: dict[str, str] = {}
        self.others: list[Mapping[str, Any]] = []

    def add(self, item: Mapping[str, Any], file: Path) -> None:
        """Add an object of a file."""
        kind = item.get("object")
        if kind == "fine_tuning.job":
            self.jobs.append((_number(item.get("created_at")) or 0, _job(item, file)))
        elif kind == "file" and isinstance(item.get("filename"), str):
            self.names[str(item.get("id"))] = item["filename"]
        else:
            self.others.append(item)


def _files_of(path: Path) -> list[Path]:
    """List what is read: a file of rows alone, or everything in the folder."""
    if path.is_file() and _holds_rows(path):
        return [path]
    folder = path if path.is_dir() else path.parent
    return sorted(each for each in folder.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())


def _holds_rows(file: Path) -> bool:
    """Tell whether a file holds training rows: lines with messages, a prompt, or a preference pair, and no answers."""
    if file.suffix.lower() != ".jsonl":
        return False
    first = next(_lines(file), {})
    is_answer = any(key in first for key in ("choices", "response", "sample", "custom_id", "object"))
    return not is_answer and any(key in first for key in ("messages", "prompt", "preferred_output"))


def _names_of(file: Path) -> Iterator[str]:
    yield from _FILE_ID.findall(file.stem)
    yield file.name


def _objects(file: Path) -> Iterator[Mapping[str, Any]]:
    """Iterate over the objects of a file: lines, one document, a list, or a page of OpenAI's lists."""
    if file.suffix.lower() == ".jsonl":
        yield from _lines(file)
        return
    if file.stat().st_size > MAX_JSON_BYTES:
        raise BadInput(f"{file}: larger than {MAX_JSON_BYTES} bytes; write it as lines", reason="EXPORT_UNREADABLE")
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file}: not JSON: {error}", reason="EXPORT_UNREADABLE") from error
    if isinstance(document, dict) and isinstance(document.get("data"), list):
        document = document["data"]
    for item in document if isinstance(document, list) else [document]:
        if isinstance(item, dict):
            yield item


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                item = json.loads(line)
                if not isinstance(item, dict):
                    raise BadInput(f"{file}:{number}:1: not a JSON object", reason="EXPORT_UNREADABLE")
                yield item
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file}: not JSON lines: {error}", reason="EXPORT_UNREADABLE") from error


def _job(item: Mapping[str, Any], file: Path) -> OpenAIJob:
    method = _mapping(item.get("method"))
    kind = str(method.get("type") or "supervised")
    inner = _mapping(method.get(kind))
    settings = {**_mapping(item.get("hyperparameters")), **_mapping(inner.get("hyperparameters"))}
    for name in ("id", "model", "training_file"):
        if not isinstance(item.get(name), str):
            raise BadInput(f"{file}: a fine_tuning.job without {name!r}", reason="EXPORT_UNREADABLE")
    epochs, batch, seed = (_number(settings.get("n_epochs")), _number(settings.get("batch_size")), item.get("seed"))
    return OpenAIJob(
        id=item["id"],
        model=item["model"],
        training_file=item["training_file"],
        validation_file=str(item.get("validation_file") or ""),
        method=kind,
        status=str(item.get("status") or ""),
        fine_tuned_model=str(item.get("fine_tuned_model") or ""),
        n_epochs=int(epochs) if epochs else None,
        batch_size=int(batch) if batch else None,
        learning_rate_multiplier=_number(settings.get("learning_rate_multiplier")),
        seed=seed if isinstance(seed, int) and not isinstance(seed, bool) else None,
        suffix=str(item.get("suffix") or item.get("user_provided_suffix") or ""),
        metadata={str(key): str(value) for key, value in _mapping(item.get("metadata")).items()},
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> float | None:
    """Return a number; None for "auto" and for what is not said."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
