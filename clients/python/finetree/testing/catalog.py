# SPDX-License-Identifier: Apache-2.0
"""The catalog of the fake suite: three invented models beside those that documentation names, a few cards, quotes.

Names, sizes, shapes and memories of the real ones are those of the estimator's own catalog; a test holds them equal.
"""

from __future__ import annotations

import difflib
import hashlib
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import NoReturn

from finetree_api.estimator.v1 import catalog_pb2
from finetree_api.types.v1 import access_pb2, evidence_pb2, hardware_pb2, model_pb2, server_pb2

from finetree._version import __version__
from finetree.errors import NotFound, PermissionDenied, Violation
from finetree.money import to_money
from finetree.testing.requests import invalid, not_promised

DATE = "2026-01-01"


def component(name: str, content: bytes = b"") -> evidence_pb2.RevisionComponent:
    """Make a component of a revision; its hash is that of the id and the content."""
    return evidence_pb2.RevisionComponent(
        id=name, date=DATE, sha256=hashlib.sha256(name.encode() + content).hexdigest()
    )


REVISION = evidence_pb2.Revision(
    engine=component("fake-engine"),
    catalog=component("fake-catalog"),
    price_book=component("fake-prices"),
    calibration=component("calibration-empty"),
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
llama-2-7b meta-llama/Llama-2-7b-hf llama 6738415616 4096 32 11008 32 32 32000 4096 0
llama-3-70b meta-llama/Meta-Llama-3-70B llama 70553706496 8192 80 28672 64 8 128256 8192 0
llama-3-8b meta-llama/Meta-Llama-3-8B llama 8030261248 4096 32 14336 32 8 128256 8192 0
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


_ACCELERATORS = """
a100-80gb,NVIDIA A100 SXM 80GB,8.0,80,84975927951,312e12,400
gtx-1080,GeForce GTX 1080,6.1,8,8203387535,,180
h100,NVIDIA H100 SXM 80GB,9.0,80,84932978278,989e12,700
h200,NVIDIA H200 SXM 141GB,9.0,141,150109106995,989e12,700
l40s,NVIDIA L40S,8.9,48,47663399567,362e12,350
rtx-2060,GeForce RTX 2060,7.5,6,6206227743,25.8e12,160
rtx-3090,GeForce RTX 3090,8.6,24,25125558682,71e12,350
rtx-4090,GeForce RTX 4090,8.9,24,25254407700,165.2e12,450
t4,NVIDIA T4,7.5,16,15633680957,65e12,70
mi300x,AMD Instinct MI300X,,192,0,1300e12,750
"""
_HOURLY = {"rtx-4090": 0.5, "a100-80gb": 1.5, "h100": 3.0}
_UNSUPPORTED = {"mi300x": "ROCm is not supported yet"}


def _accelerator(line: str) -> catalog_pb2.Accelerator:
    name, title, capability, gigabytes, usable, rate, watts = line.split(",")
    return catalog_pb2.Accelerator(
        name=name,
        display_name=title,
        compute_capability=capability,
        marketed_memory_gb=float(gigabytes),
        usable_bytes=int(usable),
        dense_flops_per_second=float(rate or 0),
        native_bf16=capability >= "8.0",
        native_int8=capability >= "7.5",
        watts=int(watts),
        typical_hourly_price=to_money(_HOURLY[name], "USD") if name in _HOURLY else None,
        unsupported=_UNSUPPORTED.get(name, ""),
        provenance=PROVENANCE,
    )


ACCELERATORS = {card.name: card for card in map(_accelerator, _ACCELERATORS.strip().splitlines())}
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
    caller = server_pb2.Caller(principal="local", project="default", roles={"*": access_pb2.ROLE_ADMIN}, operator=True)
    return server_pb2.ServerInfo(
        service=f"finetree-{service}", version=__version__, api_revisions=["v1"], limits=limits, caller=caller
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
        Unimplemented: NOT_IN_FAKE_SUITE: it has experts, another mixer than attention, or what Gemma 4 has.
    """
    wrong = next(_contradictions(shape), None)
    if wrong is not None:
        raise invalid(f"{where}.{wrong[0]}", wrong[1])
    if shape.experts:
        raise not_promised("counts no experts")
    if shape.HasField("linear_attention"):
        raise not_promised("counts no linear attention")
    if shape.HasField("convolution") or shape.HasField("latent_attention"):
        raise not_promised("counts neither convolutions nor latent attention")
    if shape.HasField("full_attention") or shape.kv_shared_layers or shape.layer_input_size:
        raise not_promised("counts no layers of two kinds of attention and none with inputs of their own")
    heads, kv_heads = shape.attention_heads, shape.kv_heads or shape.attention_heads
    head_dim = shape.head_dim or shape.hidden_size // heads
    attention = shape.hidden_size * head_dim * (2 * heads + 2 * kv_heads)
    mlp = (3 if shape.gated_mlp else 2) * shape.hidden_size * shape.intermediate_size
    embeddings = shape.vocab_size * shape.hidden_size * (1 if shape.tied_embeddings else 2)
    count = shape.layers * (attention + mlp + 2 * shape.hidden_size) + embeddings + shape.hidden_size
    return catalog_pb2.Model(shape=shape, parameters=count, active_parameters=count, provenance=PROVENANCE)


_SHORTEST_ROW = 8


def _contradictions(shape: model_pb2.ModelShape) -> Iterator[tuple[str, str]]:
    """Fields of a shape that contradict others, and why."""
    heads, kv_heads = shape.attention_heads, shape.kv_heads or shape.attention_heads
    if heads > shape.hidden_size:
        yield "attention_heads", f"is more than the hidden size of {shape.hidden_size}"
    if heads % kv_heads:
        yield "kv_heads", f"does not divide {heads} attention heads"
    if 0 < shape.max_position_embeddings < _SHORTEST_ROW:
        yield "max_position_embeddings", f"is less than the {_SHORTEST_ROW} tokens of the shortest row"
    if shape.HasField("linear_attention"):
        yield from _contradictions_of_linear_attention(shape)
    yield from _contradictions_of_mixers(shape, heads)
    yield from _contradictions_of_windows(shape, heads)
    if shape.experts:
        yield from _contradictions_of_experts(shape)
    else:
        yield from _contradictions_of_dense(shape)
    if not (shape.head_dim or shape.HasField("latent_attention")) and shape.hidden_size % heads:
        yield "head_dim", "is required: hidden_size is not a multiple of attention_heads"


def _contradictions_of_linear_attention(shape: model_pb2.ModelShape) -> Iterator[tuple[str, str]]:
    linear = shape.linear_attention
    if linear.layers >= shape.layers:
        text = f"must be less than the {shape.layers} layers: one at least has softmax attention"
        yield "linear_attention.layers", text
    if linear.value_heads % linear.key_heads:
        yield "linear_attention.value_heads", f"is not a multiple of {linear.key_heads} key_heads"
    if shape.sliding_window or shape.HasField("full_attention") or shape.kv_shared_layers:
        yield "linear_attention", "cannot be together with sliding_window"


def _contradictions_of_mixers(shape: model_pb2.ModelShape, heads: int) -> Iterator[tuple[str, str]]:
    windowed = shape.sliding_window or shape.kv_shared_layers
    if shape.HasField("convolution"):
        if shape.convolution.layers >= shape.layers:
            text = f"must be less than the {shape.layers} layers: one at least has softmax attention"
            yield "convolution.layers", text
        if shape.HasField("linear_attention") or windowed or shape.HasField("full_attention"):
            yield "convolution", "cannot be together with linear_attention or sliding_window"
    if shape.HasField("latent_attention"):
        if shape.HasField("linear_attention") or shape.HasField("convolution") or windowed:
            yield "latent_attention", "cannot be together with linear_attention, convolution or sliding_window"
        if (shape.kv_heads or heads) != heads:
            yield "kv_heads", f"must be the {heads} attention heads: latent attention has a key for each"
        width = shape.latent_attention.plain_head_dim + shape.latent_attention.rotary_head_dim
        if (shape.head_dim or width) != width:
            text = f"must be {width}, plain_head_dim and rotary_head_dim of latent_attention together"
            yield "head_dim", text


def _contradictions_of_windows(shape: model_pb2.ModelShape, heads: int) -> Iterator[tuple[str, str]]:
    if shape.full_attention_layers > shape.layers:
        yield "full_attention_layers", f"is more than the {shape.layers} layers"
    if shape.full_attention_layers and not shape.sliding_window:
        yield "full_attention_layers", "needs sliding_window; without one all layers attend to all"
    if shape.HasField("full_attention") and not shape.full_attention_layers:
        yield "full_attention", "needs full_attention_layers, whose attention it is"
    if shape.HasField("full_attention") and heads % shape.full_attention.kv_heads:
        yield "full_attention.kv_heads", f"does not divide {heads} attention heads"
    if shape.kv_shared_layers >= shape.layers:
        text = f"must be less than the {shape.layers} layers: one at least has keys and values of its own"
        yield "kv_shared_layers", text
    if shape.wide_shared_mlp and not shape.kv_shared_layers:
        yield "wide_shared_mlp", "needs kv_shared_layers, whose MLP it is"


def _contradictions_of_experts(shape: model_pb2.ModelShape) -> Iterator[tuple[str, str]]:
    if shape.active_experts > shape.experts:
        yield "active_experts", f"exceeds the {shape.experts} experts of a layer"
    if not shape.active_experts:
        yield "active_experts", f"is required: how many of {shape.experts} experts a token uses"
    if shape.dense_layers >= shape.layers:
        yield "dense_layers", f"must be less than the {shape.layers} layers: one at least has experts"
    if shape.dense_intermediate_size and not shape.dense_layers:
        yield "dense_intermediate_size", "needs dense_layers, whose width it is"


def _contradictions_of_dense(shape: model_pb2.ModelShape) -> Iterator[tuple[str, str]]:
    for name in ("active_experts", "shared_expert_size", "dense_layers", "dense_intermediate_size"):
        if getattr(shape, name):
            yield name, "needs experts; a dense model has none"


def usable_bytes(hardware: hardware_pb2.Hardware, where: str) -> int:
    """Memory of a device that a run may use, in bytes; 0 where it is not stated.

    Raises:
        NotFound: ACCELERATOR_NOT_FOUND.
        InvalidArgument: ACCELERATOR_NOT_SUPPORTED.
    """
    match hardware.WhichOneof("device"):
        case "accelerator":
            name, place = hardware.accelerator.lower(), f"{where}.accelerator"
            if name not in ACCELERATORS:
                no_such("accelerator", name, ACCELERATORS, reason="ACCELERATOR_NOT_FOUND", where=place)
            if why := ACCELERATORS[name].unsupported:
                raise invalid(place, f"{ACCELERATORS[name].display_name}: {why}", "ACCELERATOR_NOT_SUPPORTED")
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
