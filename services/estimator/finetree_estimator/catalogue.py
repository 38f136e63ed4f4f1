# SPDX-License-Identifier: Apache-2.0
"""The catalogue: models and accelerators from the package's data files, found by name."""

import csv
import difflib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

from finetree_estimator.shapes import Shape

GIB = 1024**3
"""Bytes of a gibibyte."""


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


@dataclass(frozen=True, slots=True)
class AcceleratorEntry:
    """An accelerator; rates in FLOP/s (0 when unknown), memory in bytes but for the class it is sold as."""

    name: str
    display_name: str
    architecture: str
    compute_capability: str
    marketed_gb: float
    usable_bytes: int
    bandwidth: float
    dense_flops: float
    fp32_flops: float
    native_bf16: bool
    training_flops: float
    """Rate seen in training, recomputation counted, or the typical share of the peak of its class."""
    measured: bool
    """Whether the rate was seen on this very accelerator."""
    watts: float
    aliases: tuple[str, ...]
    source: str
    date: str


class UnknownNameError(LookupError):
    """A name the catalogue does not have; `nearest` are the most similar ones, best first."""

    def __init__(self, name: str, nearest: tuple[str, ...]) -> None:
        super().__init__(name)
        self.name = name
        self.nearest = nearest


@cache
def raw(filename: str) -> bytes:
    """Content of a data file of the package."""
    return resources.files("finetree_estimator.data").joinpath(filename).read_bytes()


@cache
def models() -> tuple[ModelEntry, ...]:
    """All models in the order of their names."""
    return tuple(sorted(map(_model, _rows("models.csv")), key=lambda entry: entry.name))


@cache
def accelerators() -> tuple[AcceleratorEntry, ...]:
    """All accelerators in the order of their names."""
    return tuple(sorted(map(_accelerator, _rows("accelerators.csv")), key=lambda entry: entry.name))


def model(name: str) -> ModelEntry:
    """The model with this catalogue name or hub id, in any letter case. Raises UnknownNameError."""
    index = _model_index()
    if (entry := index.get(name.strip().lower())) is None:
        raise UnknownNameError(name, nearest_names(name, (m.name for m in models()), (m.hub_id for m in models())))
    return entry


def accelerator(name: str) -> AcceleratorEntry:
    """The accelerator with this name or alias; case, blanks and underscores do not matter. Raises UnknownNameError."""
    entry = _accelerator_index().get(_slug(name))
    if entry is None:
        raise UnknownNameError(name, nearest_names(_slug(name), (a.name for a in accelerators())))
    return entry


def _rows(filename: str) -> Iterable[dict[str, str]]:
    return csv.DictReader(io.StringIO(raw(filename).decode()))


@cache
def _model_index() -> dict[str, ModelEntry]:
    index: dict[str, ModelEntry] = {}
    for entry in models():
        for name in (entry.name, entry.hub_id, *entry.aliases):
            index.setdefault(name.lower(), entry)
            # "llama-3.2-3b-instruct" is what people type for "meta-llama/Llama-3.2-3B-Instruct".
            index.setdefault(name.rpartition("/")[2].lower(), entry)
    return index


@cache
def _accelerator_index() -> dict[str, AcceleratorEntry]:
    index: dict[str, AcceleratorEntry] = {}
    for entry in accelerators():
        for name in (entry.name, entry.display_name, *entry.aliases):
            index.setdefault(_slug(name), entry)
    return index


def _slug(name: str) -> str:
    return "-".join(name.lower().replace("_", " ").replace("-", " ").split())


def nearest_names(name: str, *groups: Iterable[str]) -> tuple[str, ...]:
    """At most three names similar to `name`, best first; where none is similar, none."""
    names = {candidate.lower(): candidate for group in groups for candidate in group}
    return tuple(names[hit] for hit in difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5))


def _split(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(";") if part)


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
        _split(row["aliases"]),
        row["source"],
        row["date"],
    )


def _accelerator(row: dict[str, str]) -> AcceleratorEntry:
    peak = row["bf16_dense_tflops"] or row["fp16_dense_tflops"] or "0"
    return AcceleratorEntry(
        name=row["name"],
        display_name=row["display_name"],
        architecture=row["architecture"],
        compute_capability=row["compute_capability"],
        marketed_gb=float(row["marketed_memory_gb"]),
        usable_bytes=round(float(row["usable_gib"]) * GIB),
        bandwidth=float(row["bandwidth_gb_s"] or 0) * 1e9,
        dense_flops=float(peak) * 1e12,
        fp32_flops=float(row["fp32_tflops"] or 0) * 1e12,
        native_bf16=row["native_bf16"] == "1",
        training_flops=float(row["training_tflops"]) * 1e12,
        measured=row["training_evidence"] == "published",
        watts=float(row["watts"]),
        aliases=_split(row["aliases"]),
        source=row["source"],
        date=row["date"],
    )
