# SPDX-License-Identifier: Apache-2.0
"""The models of the catalogue: shapes from the package's data file, found by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from finetree_runtime.runspec import model_names

from finetree_estimator.catalog.architecture import Shape
from finetree_estimator.catalog.names import UnknownNameError, nearest_names, split, table


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model whose shape is known."""

    name: str
    hub_id: str
    family: str
    license: str
    shape: Shape
    published: str
    """Parameter total as the source prints it: "7241732096" or "7.24B"."""
    stored_besides: int
    """What that total counts besides parameters: buffers, a tied matrix a second time, a vision tower."""
    aliases: tuple[str, ...]
    source: str
    date: str


_NUMBERS = {
    "hidden_size": "hidden",
    "layers": "layers",
    "intermediate_size": "intermediate",
    "attention_heads": "heads",
    "kv_heads": "kv_heads",
    "head_dim": "head_dim",
    "vocab_size": "vocab",
    "max_position_embeddings": "max_positions",
    "norms_per_layer": "norms_per_layer",
    "learned_positions": "learned_positions",
    "experts": "experts",
    "active_experts": "active_experts",
    "shared_expert_size": "shared_expert",
    "dense_layers": "dense_layers",
    "dense_intermediate_size": "dense_intermediate",
    "extra_parameters": "extra",
}
"""Columns of the data file with a number (empty means 0), and the shape's names for them."""
_SWITCHES = {
    "tied_embeddings": "tied",
    "gated_mlp": "gated",
    "qkv_bias": "qkv_bias",
    "output_bias": "output_bias",
    "mlp_bias": "mlp_bias",
    "norm_bias": "norm_bias",
    "head_norms": "head_norms",
    "lm_head_bias": "lm_head_bias",
}
"""Columns with 1 for yes."""


@cache
def models() -> tuple[ModelEntry, ...]:
    """All models in the order of their names."""
    return tuple(sorted(map(_model, table("models.csv")), key=lambda entry: entry.name))


def model(name: str) -> ModelEntry:
    """The model with this catalogue name or hub id, in any letter case. Raises UnknownNameError."""
    if (entry := model_names.find(_model_index(), name)) is None:
        raise UnknownNameError(name, nearest_names(name, (m.name for m in models()), (m.hub_id for m in models())))
    return entry


@cache
def _model_index() -> Mapping[str, ModelEntry]:
    return model_names.by_name(((entry.name, entry.hub_id, *entry.aliases), entry) for entry in models())


def _model(row: dict[str, str]) -> ModelEntry:
    numbers = {field: int(row[column] or 0) for column, field in _NUMBERS.items()}
    switches = {field: row[column] == "1" for column, field in _SWITCHES.items()}
    return ModelEntry(
        row["name"],
        row["hub_id"],
        row["family"],
        row["license"],
        # mypy does not know which fields the tables name.
        Shape(family=row["model_type"], **numbers, **switches),  # type: ignore[arg-type]
        row["published_parameters"],
        int(row["stored_besides"]),
        split(row["aliases"]),
        row["source"],
        row["date"],
    )
