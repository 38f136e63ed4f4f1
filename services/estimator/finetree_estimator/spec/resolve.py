# SPDX-License-Identifier: Apache-2.0
"""Lookup of what a spec names: the model's shape, the device, the price."""

from dataclasses import dataclass, replace
from pathlib import Path

from finetree_api.types.v1 import hardware_pb2, model_pb2, run_spec_pb2
from finetree_runtime.errors import InvalidArgument, NotFound, invalid_field
from finetree_runtime.money import to_float
from finetree_runtime.runspec import device_names

from finetree_estimator.catalog import devices
from finetree_estimator.catalog.accelerators import AcceleratorEntry, accelerator, other_memories
from finetree_estimator.catalog.devices import Device
from finetree_estimator.catalog.models import model as catalog_model
from finetree_estimator.catalog.models import unknown_reason
from finetree_estimator.catalog.names import UnknownNameError
from finetree_estimator.catalog.price_book import Owned, PriceBook, Quote
from finetree_estimator.remarks import Remark
from finetree_estimator.shapes.architecture import Shape
from finetree_estimator.shapes.config_json import hf_config
from finetree_estimator.shapes.config_json.hf_config import Described
from finetree_estimator.shapes.config_json.settings import ConfigError
from finetree_estimator.shapes.consistency import contradiction
from finetree_estimator.shapes.families import ALIASES
from finetree_estimator.shapes.mixers import FullAttention, LatentAttention, LinearAttention, ShortConvolution
from finetree_estimator.shapes.projections import LAYOUTS

_NO_GPU = {"cpu", "none", "no", "no gpu"}


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Data that requests are resolved with: prices, and the folder of model configurations if there is one."""

    prices: PriceBook
    model_root: Path | None = None


def read_model(model: model_pb2.ModelSource, knowledge: Knowledge) -> Described:
    """Look up the base model's dimensions. Raises NotFound (MODEL_NOT_FOUND) and InvalidArgument."""
    source = model.WhichOneof("source")
    if source == "shape":
        return _given_shape(model.shape)
    if source == "path":
        return _shape_of_path(model.path, knowledge.model_root)
    name = model.name if source == "name" else model.hub.id
    try:
        return Described(catalog_model(name).shape)
    except UnknownNameError as error:
        text = f"no model {name!r} in the catalog{_instead(error)}"
        raise NotFound("MODEL_NOT_FOUND", text, metadata={"model": name}) from error


def read_device(
    hardware: hardware_pb2.Hardware, *, fp32: bool, matrix_rates: hardware_pb2.MatrixRates | None = None
) -> Device:
    """Look up the device. Raises NotFound (ACCELERATOR_NOT_FOUND) and InvalidArgument (ACCELERATOR_NOT_SUPPORTED).

    `matrix_rates` are measured rates of the CPU that trains; of several on one CPU each is a part of it.
    """
    kind = hardware.WhichOneof("device")
    if kind == "cpu":
        cpu, rates = hardware.cpu, matrix_rates or hardware_pb2.MatrixRates()
        whole = devices.processor(
            name=cpu.model_name,
            cores=cpu.cores,
            memory_bytes=cpu.memory_bytes,
            measured_flops=rates.fp32_flops_per_second if fp32 else rates.bf16_flops_per_second,
            measured_backward_flops=(
                rates.fp32_backward_flops_per_second if fp32 else rates.bf16_backward_flops_per_second
            ),
        )
        return devices.part_of(whole, max(1, hardware.count))
    if kind == "unknown_accelerator":
        return devices.by_memory_class(hardware.unknown_accelerator.marketed_memory_gb)
    return _named_device(hardware.accelerator, fp32=fp32)


def _named_device(name: str, *, fp32: bool) -> Device:
    """Look up a named accelerator; a name outside the catalog may still reveal a vendor that is not supported."""
    try:
        entry = read_accelerator(name)
    except NotFound as error:
        if reason := device_names.unsupported(name):
            raise _not_supported(f"{name!r}: {reason}") from error
        raise
    if entry.unsupported:
        raise _not_supported(f"{entry.display_name}: {entry.unsupported}")
    device = devices.known(entry, fp32=fp32)
    if others := other_memories(name):
        sizes = " and ".join(f"{other.marketed_gb:g} GB ({other.name})" for other in others)
        text = f"{name[:64]!r} is read as {entry.display_name}; it is also sold with {sizes}"
        remark = Remark("ACCELERATOR_MEMORY_ASSUMED", text, "spec.hardware.accelerator")
        device = replace(device, remarks=(remark, *device.remarks))
    return device


def read_accelerator(name: str) -> AcceleratorEntry:
    """Look up an accelerator by name, supported or not. Raises NotFound (ACCELERATOR_NOT_FOUND)."""
    try:
        return accelerator(name)
    except UnknownNameError as error:
        text = (
            f"no accelerator {name!r} in the catalog{_elsewhere(name)}{_or_nearest(error)} ListAccelerators lists "
            "all, hardware.unknown_accelerator accepts any memory size"
        )
        raise NotFound("ACCELERATOR_NOT_FOUND", text, metadata={"accelerator": name}) from error


def _elsewhere(name: str) -> str:
    """Name the field that is meant, where a name means a machine without a GPU."""
    return "; for a machine without a GPU set hardware.cpu" if name.strip().casefold() in _NO_GPU else ""


def _not_supported(what: str) -> InvalidArgument:
    path, text = "spec.hardware.accelerator", f"{what}; ListAccelerators lists those that are supported"
    return InvalidArgument("ACCELERATOR_NOT_SUPPORTED", f"{path}: {text}", violations=[(path, text)])


def device_key(hardware: hardware_pb2.Hardware) -> str:
    """Key that runs on equal devices share: the catalog's name, or a processor's name and its cores.

    Empty where neither is known. Raises UnknownNameError for an accelerator that the catalog does not have.
    """
    kind = hardware.WhichOneof("device")
    if kind == "accelerator":
        return accelerator(hardware.accelerator).name
    name = " ".join(hardware.cpu.model_name.split())
    return f"{name}, {hardware.cpu.cores} cores" if kind == "cpu" and name and hardware.cpu.cores else ""


def model_family(model: model_pb2.ModelSource) -> str:
    """Family of a model of the catalog; "" for any other."""
    name = model.name or model.hub.id
    try:
        return catalog_model(name).family if name else ""
    except UnknownNameError:
        return ""


def read_payment(spec: run_spec_pb2.RunSpec, book: PriceBook) -> Owned | Quote | None:
    """Look up the price of a run; None where none is known. Raises InvalidArgument and NotFound (PRICE_NOT_FOUND).

    A named accelerator without `ownership` is rented at the lowest price in the book for the number of devices.
    """
    if spec.ownership.WhichOneof("kind") == "owned":
        return _owned(spec.ownership.owned)
    hardware, price_id = spec.hardware, spec.ownership.rented.price_id
    name = accelerator(hardware.accelerator).name if hardware.accelerator else ""
    return _quote(price_id, name, book) if price_id else book.cheapest(name, max(1, hardware.count))


def _owned(owned: hardware_pb2.OwnedHardware) -> Owned:
    """Read the price of electricity of owned hardware; 0 where none is given."""
    return Owned(to_float(owned.price_per_kwh), owned.price_per_kwh.currency_code or "USD", owned.watts)


def _given_shape(given: model_pb2.ModelShape) -> Described:
    family = ALIASES.get(given.family, given.family)
    shape = Shape(
        hidden=given.hidden_size,
        layers=given.layers,
        intermediate=given.intermediate_size,
        heads=given.attention_heads,
        kv_heads=given.kv_heads or given.attention_heads,
        head_dim=given.head_dim or _usual_head_dim(given),
        vocab=given.vocab_size,
        tied=given.tied_embeddings,
        gated=given.gated_mlp,
        max_positions=given.max_position_embeddings,
        experts=given.experts,
        active_experts=given.active_experts,
        qkv_bias=given.attention_bias,
        output_bias=given.attention_output_bias,
        mlp_bias=given.mlp_bias,
        norms_per_layer=given.norms_per_layer or 2,
        norm_bias=given.norm_bias,
        head_norms=given.head_norms,
        lm_head_bias=given.lm_head_bias,
        learned_positions=given.learned_positions,
        shared_expert=given.shared_expert_size,
        dense_layers=given.dense_layers,
        dense_intermediate=given.dense_intermediate_size,
        extra=given.extra_parameters,
        window=given.sliding_window,
        full_attention_layers=given.full_attention_layers,
        linear=_linear_attention(given.linear_attention) if given.HasField("linear_attention") else None,
        attention_gate=given.attention_gate,
        vision=given.vision_parameters,
        full_attention=_full_attention(given.full_attention) if given.HasField("full_attention") else None,
        convolution=_convolution(given.convolution) if given.HasField("convolution") else None,
        latent=_latent_attention(given.latent_attention) if given.HasField("latent_attention") else None,
        kv_shared_layers=given.kv_shared_layers,
        wide_shared_mlp=given.wide_shared_mlp,
        layer_inputs=given.layer_input_size,
        family=family,
        guessed=bool(family) and family not in LAYOUTS,
    )
    if (problem := contradiction(shape)) is not None:
        raise invalid_field(f"spec.model.shape.{problem.field}", problem.text)
    if not (given.head_dim or given.HasField("latent_attention")) and given.hidden_size % given.attention_heads:
        text = "is required: hidden_size is not a multiple of attention_heads"
        raise invalid_field("spec.model.shape.head_dim", text)
    if not shape.guessed:
        return Described(shape)
    text = f"the family {family!r} is unknown: module names are assumed to be those of Llama"
    return Described(shape, (Remark("MODEL_FAMILY_UNKNOWN", text, "spec.model.shape.family"),))


def _linear_attention(given: model_pb2.LinearAttention) -> LinearAttention:
    return LinearAttention(
        layers=given.layers,
        key_heads=given.key_heads,
        key_head_dim=given.key_head_dim,
        value_heads=given.value_heads,
        value_head_dim=given.value_head_dim,
        conv_kernel=given.conv_kernel or 4,
    )


def _usual_head_dim(given: model_pb2.ModelShape) -> int:
    """Width of a head where none is given."""
    if given.HasField("latent_attention"):
        return given.latent_attention.plain_head_dim + given.latent_attention.rotary_head_dim
    return given.hidden_size // given.attention_heads


def _convolution(given: model_pb2.ShortConvolution) -> ShortConvolution:
    return ShortConvolution(given.layers, given.kernel or 3, bias=given.bias)


def _latent_attention(given: model_pb2.LatentAttention) -> LatentAttention:
    return LatentAttention(
        query_rank=given.query_rank,
        key_value_rank=given.key_value_rank,
        plain_head_dim=given.plain_head_dim,
        rotary_head_dim=given.rotary_head_dim,
        value_head_dim=given.value_head_dim,
    )


def _full_attention(given: model_pb2.FullAttention) -> FullAttention:
    return FullAttention(given.kv_heads, given.head_dim, keys_as_values=given.keys_as_values)


def _shape_of_path(path: str, root: Path | None) -> Described:
    if root is None:
        text = "this server reads no local models; name a model of the catalog or give model.shape"
        raise NotFound("MODEL_NOT_FOUND", f"spec.model.path: {text}", violations=[("spec.model.path", text)])
    file = hf_config.find(root, path)
    if file is None:
        text = f"no config.json at {path!r} under the model root"
        raise NotFound("MODEL_NOT_FOUND", f"spec.model.path: {text}", violations=[("spec.model.path", text)])
    try:
        return hf_config.read(file)
    except ConfigError as error:
        raise invalid_field("spec.model.path", f"{path!r} cannot be used: {error}") from error


def _quote(price_id: str, accelerator: str, book: PriceBook) -> Quote:
    try:
        quote = book.find(price_id)
    except UnknownNameError as error:
        text = (
            f"no price {price_id!r} in the price book{_or_nearest(error)} ListPrices lists all, without price_id the "
            "cheapest is used"
        )
        raise NotFound("PRICE_NOT_FOUND", text, metadata={"price_id": price_id}) from error
    if quote.accelerator != accelerator:
        text = f"the price {price_id!r} is of {quote.accelerator}, not of {accelerator or 'this device'}"
        raise NotFound("PRICE_NOT_FOUND", text, metadata={"price_id": price_id})
    return quote


def _instead(error: UnknownNameError) -> str:
    """Advice for an unknown model: the reason that its name shows, or the most similar names."""
    if reason := unknown_reason(error.name):
        return f"; {reason}. ListModels lists the known models"
    return f"{_or_nearest(error)} ListModels lists all, model.shape accepts any"


def _or_nearest(error: UnknownNameError) -> str:
    """End of the sentence that says that there is no such name: the most similar ones, if there are any."""
    return f"; did you mean {', '.join(error.nearest)}?" if error.nearest else ";"
