# SPDX-License-Identifier: Apache-2.0
"""The catalog of the fake suite: three invented models beside those that documentation names, a few cards, quotes.

Names, sizes, shapes and memories of the real ones are those of the estimator's own catalog; a test holds them equal.
"""

from __future__ import annotations

import difflib
import posixpath
from collections.abc import Iterable, Mapping
from typing import NoReturn

from finetree_api.estimator.v1 import catalog_pb2
from finetree_api.types.v1 import evidence_pb2, hardware_pb2, model_pb2, server_pb2

from finetree._version import __version__
from finetree.errors import NotFound, PermissionDenied, Violation
from finetree.money import to_money
from finetree.testing.requests import invalid, not_promised

DATE = "2026-01-01"
REVISION = evidence_pb2.Revision(
    engine=evidence_pb2.RevisionComponent(id="fake-engine", date=DATE),
    catalog=evidence_pb2.RevisionComponent(id="fake-catalog", date=DATE),
    price_book=evidence_pb2.RevisionComponent(id="fake-prices", date=DATE),
    calibration=evidence_pb2.RevisionComponent(id="calibration-empty", date=DATE),
)
PROVENANCE = evidence_pb2.Provenance(
    kind=evidence_pb2.PROVENANCE_KIND_COMPUTED, source="invented by the fake suite", date=DATE
)
CPU_BYTES = 8 * 2**30
"""Memory of the fake machine's processor."""

_MODELS = """
tiny acme/tiny acme 1000000 64 2 256 4 4 1024 512 1
small acme/small acme 135000000 576 30 1536 9 3 49152 8192 1
large acme/large acme 7000000000 4096 32 11008 32 32 32000 4096 0
llama-3.1-70b meta-llama/Llama-3.1-70B llama 70553706496 8192 80 28672 64 8 128256 131072 0
llama-3.1-8b meta-llama/Llama-3.1-8B llama 8030261248 4096 32 14336 32 8 128256 131072 0
llama-3.2-1b meta-llama/Llama-3.2-1B llama 1235814400 2048 16 8192 32 8 128256 131072 1
llama-3.2-3b meta-llama/Llama-3.2-3B llama 3212749824 3072 28 8192 24 8 128256 131072 1
phi-2 microsoft/phi-2 phi 2779683840 2560 32 10240 32 32 51200 2048 0
qwen2.5-0.5b Qwen/Qwen2.5-0.5B qwen2 494032768 896 24 4864 14 2 151936 32768 1
qwen2.5-7b Qwen/Qwen2.5-7B qwen2 7615616512 3584 28 18944 28 4 152064 131072 0
smollm2-135m-instruct HuggingFaceTB/SmolLM2-135M-Instruct smollm2 134515008 576 30 1536 9 3 49152 8192 1
"""


def _model(line: str) -> catalog_pb2.Model:
    name, hub_id, family, *numbers = line.split()
    parameters, hidden, layers, inner, heads, kv_heads, vocabulary, positions, tied = map(int, numbers)
    shape = model_pb2.ModelShape(
        hidden_size=hidden,
        layers=layers,
        intermediate_size=inner,
        attention_heads=heads,
        kv_heads=kv_heads,
        vocab_size=vocabulary,
        max_position_embeddings=positions,
        tied_embeddings=bool(tied),
        gated_mlp=True,
    )
    return catalog_pb2.Model(
        name=name,
        hub_id=hub_id,
        family=family,
        shape=shape,
        parameters=parameters,
        active_parameters=parameters,
        provenance=PROVENANCE,
    )


MODELS = {model.name: model for model in map(_model, _MODELS.strip().splitlines())}
"""Models by name."""


def _accelerator(name: str, title: str, gigabytes: int, usable: int, rate: float) -> catalog_pb2.Accelerator:
    return catalog_pb2.Accelerator(
        name=name,
        display_name=title,
        marketed_memory_gb=gigabytes,
        usable_bytes=usable,
        dense_flops_per_second=rate,
        native_bf16=True,
        native_int8=True,
        watts=400,
        typical_hourly_price=to_money(_HOURLY[name], "USD"),
        provenance=PROVENANCE,
    )


_HOURLY = {"rtx-4090": 0.5, "a100-80gb": 1.5, "h100": 3.0}
ACCELERATORS = {
    card.name: card
    for card in (
        _accelerator("rtx-4090", "GeForce RTX 4090", 24, 25254407700, 165.2e12),
        _accelerator("a100-80gb", "NVIDIA A100 SXM 80GB", 80, 84975927951, 312e12),
        _accelerator("h100", "NVIDIA H100 SXM 80GB", 80, 84932978278, 989e12),
    )
}
"""Accelerators by name."""

PRICES = tuple(
    catalog_pb2.Price(
        price_id=f"fake/{card}/{term}",
        accelerator=card,
        provider="fake",
        region="nowhere",
        term=catalog_pb2.PriceTerm.Value(f"PRICE_TERM_{term.upper()}"),
        hourly_price=to_money(hourly * share, "USD"),
        min_count=1,
        provenance=PROVENANCE,
    )
    for card, hourly in sorted(_HOURLY.items())
    for term, share in (("spot", 0.5), ("on_demand", 1.0))
)
"""Quotes, by accelerator and price."""


def server(service: str, **limits: int) -> server_pb2.ServerInfo:
    """Make the server info of a service."""
    return server_pb2.ServerInfo(
        service=f"finetree-{service}", version=__version__, api_revisions=["v1"], limits=limits
    )


def near(name: str, known: Iterable[str]) -> str:
    """Names that are meant perhaps, for the metadata of a NotFound."""
    return ", ".join(difflib.get_close_matches(name, list(known), n=3))


def no_such(kind: str, name: str, known: Iterable[str], *, reason: str, where: str) -> NoReturn:
    """Raise NotFound with the nearest names."""
    meant = near(name, known)
    text = f"{where}: there is no {kind} {name[:80]!r}" + (f"; nearest: {meant}" if meant else "")
    raise NotFound(text, reason=reason, metadata={"near": meant} if meant else {})


def find_model(source: model_pb2.ModelSource, where: str) -> catalog_pb2.Model:
    """Model of the catalog, or one made of a shape. `where` is the field of the source.

    Raises:
        InvalidArgument: INVALID_REQUEST.
        NotFound: MODEL_NOT_FOUND.
    """
    match source.WhichOneof("source"):
        case "name":
            known = {name.lower(): model for name, model in MODELS.items()}
            known |= {model.hub_id.lower(): model for model in MODELS.values()}
            found = known.get(source.name.lower())
            if found is None:
                no_such("model", source.name, MODELS, reason="MODEL_NOT_FOUND", where=f"{where}.name")
            return found
        case "hub":
            by_hub_id = {model.hub_id.lower(): model for model in MODELS.values()}
            hub_ids = [model.hub_id for model in MODELS.values()]
            if source.hub.id.lower() not in by_hub_id:
                no_such("model", source.hub.id, hub_ids, reason="MODEL_NOT_FOUND", where=f"{where}.hub.id")
            return by_hub_id[source.hub.id.lower()]
        case "shape":
            return of_shape(source.shape, f"{where}.shape")
        case "path":
            raise NotFound(f"{where}.path: no model lies at {source.path[:80]!r}", reason="MODEL_NOT_FOUND")
    raise invalid(f"{where}.source", "exactly one field is required in oneof")


def of_shape(shape: model_pb2.ModelShape, where: str) -> catalog_pb2.Model:
    """Count the parameters of a shape.

    Raises:
        InvalidArgument: INVALID_REQUEST: its numbers contradict each other.
    """
    heads, kv_heads = shape.attention_heads, shape.kv_heads or shape.attention_heads
    if not shape.head_dim and shape.hidden_size % heads:
        raise invalid(f"{where}.attention_heads", f"{heads} heads do not divide a width of {shape.hidden_size}")
    head_dim = shape.head_dim or shape.hidden_size // heads
    if heads * head_dim > 16 * shape.hidden_size or heads % kv_heads:
        where = f"{where}.kv_heads" if heads % kv_heads else f"{where}.attention_heads"
        raise invalid(where, f"{kv_heads} key heads do not fit {heads} heads")
    if shape.experts or shape.active_experts:
        raise not_promised("counts no experts")
    attention = shape.hidden_size * head_dim * (2 * heads + 2 * kv_heads)
    mlp = (3 if shape.gated_mlp else 2) * shape.hidden_size * shape.intermediate_size
    embeddings = shape.vocab_size * shape.hidden_size * (1 if shape.tied_embeddings else 2)
    count = shape.layers * (attention + mlp + 2 * shape.hidden_size) + embeddings + shape.hidden_size
    return catalog_pb2.Model(shape=shape, parameters=count, active_parameters=count, provenance=PROVENANCE)


def usable_bytes(hardware: hardware_pb2.Hardware, where: str) -> int:
    """Memory of a device that a run may use, in bytes; 0 where it is not stated.

    Raises:
        NotFound: ACCELERATOR_NOT_FOUND.
    """
    match hardware.WhichOneof("device"):
        case "accelerator":
            name = hardware.accelerator.lower()
            if name not in ACCELERATORS:
                no_such("accelerator", name, ACCELERATORS, reason="ACCELERATOR_NOT_FOUND", where=f"{where}.accelerator")
            return ACCELERATORS[name].usable_bytes
        case "cpu":
            return hardware.cpu.memory_bytes
        case "unknown_accelerator":
            return round(hardware.unknown_accelerator.marketed_memory_gb * 1e9)
    return 0


def require_pinned(pinned: evidence_pb2.Revision, have: evidence_pb2.Revision, field: str) -> None:
    """Raise unless every component that a request pins is the present one.

    Raises:
        FailedPrecondition: REVISION_UNAVAILABLE.
    """
    from finetree.errors import FailedPrecondition

    for part, wanted in pinned.ListFields():
        present = getattr(have, part.name)
        if part.name == "pack" and not have.HasField("pack"):
            continue
        for name in ("id", "sha256"):
            if getattr(wanted, name) not in ("", getattr(present, name)):
                place = f"{field}.{part.name}.{name}"
                text = f"{getattr(wanted, name)} is not available; this server has {getattr(present, name)}"
                raise FailedPrecondition(
                    f"{place}: {text}", reason="REVISION_UNAVAILABLE", violations=(Violation(place, text),)
                )


def require_inside(path: str, known: Mapping[str, object] | Iterable[str], where: str, reason: str) -> str:
    """Raise unless a path lies under the fake machine's roots and something is there.

    Raises:
        PermissionDenied: PATH_OUTSIDE_ROOTS.
        NotFound: `reason`.
    """
    if path.startswith("/") or posixpath.normpath(path).startswith(".."):
        raise PermissionDenied(f"{where}: must lie under a configured root", reason="PATH_OUTSIDE_ROOTS")
    if posixpath.normpath(path) not in known:
        raise NotFound(f"{where}: nothing lies at {path[:80]!r}", reason=reason)
    return posixpath.normpath(path)
