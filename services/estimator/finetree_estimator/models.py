# SPDX-License-Identifier: Apache-2.0
"""The models of the catalogue: shapes from the package's data file, found by name."""

from dataclasses import dataclass
from functools import cache

from finetree_estimator.names import UnknownNameError, nearest_names, split, table
from finetree_estimator.shapes import Shape


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model whose shape is known; `published` is the parameter total of its publisher."""

    name: str
    hub_id: str
    family: str
    license: str
    shape: Shape
    published: int
    aliases: tuple[str, ...]
    source: str
    date: str


@cache
def models() -> tuple[ModelEntry, ...]:
    """All models in the order of their names."""
    return tuple(sorted(map(_model, table("models.csv")), key=lambda entry: entry.name))


def model(name: str) -> ModelEntry:
    """The model with this catalogue name or hub id, in any letter case. Raises UnknownNameError."""
    index = _model_index()
    if (entry := index.get(name.strip().lower())) is None:
        raise UnknownNameError(name, nearest_names(name, (m.name for m in models()), (m.hub_id for m in models())))
    return entry


@cache
def _model_index() -> dict[str, ModelEntry]:
    index: dict[str, ModelEntry] = {}
    for entry in models():
        for name in (entry.name, entry.hub_id, *entry.aliases):
            index.setdefault(name.lower(), entry)
            # "llama-3.2-3b-instruct" is what people type for "meta-llama/Llama-3.2-3B-Instruct".
            index.setdefault(name.rpartition("/")[2].lower(), entry)
    return index


def _model(row: dict[str, str]) -> ModelEntry:
    shape = Shape(
        hidden=int(row["hidden_size"]),
        layers=int(row["layers"]),
        intermediate=int(row["intermediate_size"]),
        heads=int(row["attention_heads"]),
        kv_heads=int(row["kv_heads"]),
        head_dim=int(row["head_dim"]),
        vocab=int(row["vocab_size"]),
        tied=row["tied_embeddings"] == "1",
        gated=row["gated_mlp"] == "1",
        max_positions=int(row["max_position_embeddings"]),
        qkv_bias=row["qkv_bias"] == "1",
        output_bias=row["output_bias"] == "1",
        mlp_bias=row["mlp_bias"] == "1",
        norms_per_layer=int(row["norms_per_layer"]),
        norm_bias=row["norm_bias"] == "1",
        head_norms=row["head_norms"] == "1",
        lm_head_bias=row["lm_head_bias"] == "1",
    )
    return ModelEntry(
        row["name"],
        row["hub_id"],
        row["family"],
        row["license"],
        shape,
        int(row["published_parameters"]),
        split(row["aliases"]),
        row["source"],
        row["date"],
    )
