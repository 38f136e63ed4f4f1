# SPDX-License-Identifier: Apache-2.0
"""The method's settings of trained weights: taken over by a run that starts from them, or contradicted by it."""

from typing import Any

from finetree_api.types.v1 import method_pb2, run_spec_pb2
from finetree_data.weights.adapter import AdapterFolder
from finetree_runtime.errors import InvalidArgument, invalid_field
from finetree_runtime.runspec.paths import set_paths

from finetree_trainer.models.weights import LocatedWeights

RULE = "init_from"
"""SettingSource.rule_id of a setting that is the weights' own."""
_LOW_RANK = ("lora", "qlora")
"""Methods whose adapters are the same files: they differ in how the base is stored while they train."""
_SHAPING = {
    "lora": ("rank", "alpha", "rank_stabilized", "weight_decomposed", "include_experts"),
    "prefix": ("virtual_tokens",),
    "adapter": ("bottleneck_size", "placement"),
    "full": (),
}
"""Settings that weights have their shape or their scale by, layers of LoRA aside. Others may differ from run to run."""
_LIKE_UNSET = {"placement": method_pb2.ADAPTER_PLACEMENT_PFEIFFER}
_NEVER_FURTHER = (
    *("rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform", "exclude_modules", "lora_bias"),
    *("target_parameters", "trainable_token_indices", "layer_replication", "alora_invocation_tokens", "use_qalora"),
    *("monteclora_config", "use_bdlora", "arrow_config", "kasa_config", "velora_config", "prefix_projection"),
)
"""Settings of peft 0.21 that RunSpec has no word for, so that an adapter with one cannot be trained further here."""
_MAX_TARGETS, _MAX_ALPHA = 64, 65536
"""Rules of Lora.target_modules and Lora.alpha."""


def adopt(spec: run_spec_pb2.RunSpec, weights: LocatedWeights, field_path: str) -> list[str]:
    """Fill in the method, and its settings that are unset, from the weights; return the paths that were filled in.

    `field_path` is where the request has the spec. Raises InvalidArgument WEIGHTS_MISMATCH for a setting that
    contradicts the weights, or weights with settings that a spec cannot have.
    """
    before = set(set_paths(spec))
    theirs = _settings(weights, f"{field_path}.init_from")
    made, asked = theirs.WhichOneof("method"), spec.WhichOneof("method")
    assert made is not None  # noqa: S101 - every trained weight has a method
    method = asked or made
    if method != made and not (method in _LOW_RANK and made in _LOW_RANK):
        text = f"the weights were trained by {made}, and go on by {' or '.join(_goes_on_by(made))}"
        raise invalid_field(f"{field_path}.{method}", text, "WEIGHTS_MISMATCH")
    getattr(spec, method).SetInParent()
    own, other = getattr(spec, method), getattr(theirs, made)
    path = f"{field_path}.{method}"
    if method in _LOW_RANK:
        if method == made == "qlora":
            _fill(own, other, leave=("lora",))
        own, path = (own.lora, f"{path}.lora") if method == "qlora" else (own, path)
        other = other.lora if made == "qlora" else other
        _require_layers(own, other, path)
        method = "lora"
    for name in _SHAPING[method]:
        _require_equal(own, other, name, path)
    _fill(own, other, leave=("frozen_layers",) if method == "full" else ())
    return [path for path in set_paths(spec) if path not in before]


def _goes_on_by(made: str) -> tuple[str, ...]:
    return _LOW_RANK if made in _LOW_RANK else (made,)


def _settings(weights: LocatedWeights, place: str) -> run_spec_pb2.RunSpec:
    """Return a spec with the method of the weights and its settings alone."""
    found = run_spec_pb2.RunSpec()
    if weights.spec is not None and (method := weights.spec.WhichOneof("method")) is not None:
        getattr(found, method).CopyFrom(getattr(weights.spec, method))
        getattr(found, method).SetInParent()
    elif weights.adapter is not None:
        _read(found, weights.adapter, place)
    else:
        found.full.SetInParent()
    return found


def _read(spec: run_spec_pb2.RunSpec, adapter: AdapterFolder, place: str) -> None:
    config = adapter.config
    for name in _NEVER_FURTHER:
        if config.get(name):
            raise _cannot_go_on(place, f"has {name}")
    try:
        match adapter.method:
            case "lora":
                spec.lora.CopyFrom(_low_rank(adapter))
            case "prefix":
                spec.prefix.virtual_tokens = _size(adapter, "prompt_embeddings", config["num_virtual_tokens"])
            case _:
                placement = f"ADAPTER_PLACEMENT_{str(config['placement']).upper()}"
                spec.adapter.placement = method_pb2.AdapterPlacement.Value(placement)
                spec.adapter.bottleneck_size = _size(adapter, ".down.bias", config["bottleneck_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise _cannot_go_on(place, "has a configuration without the settings of its method") from error
    if adapter.method == "lora" and (config.get("bias") or "none") != "none":
        raise _cannot_go_on(place, "has trained biases")


def _size(adapter: AdapterFolder, end: str, stated: int) -> int:
    """Return a size that the configuration states. Raises ValueError unless all tensors of that name have it."""
    if {tensor.shape[:1] for name, tensor in adapter.tensors.items() if name.endswith(end)} != {(stated,)}:
        raise ValueError
    return stated


def _low_rank(adapter: AdapterFolder) -> method_pb2.Lora:
    """Read peft's LoraConfig. Raises KeyError, TypeError and ValueError for one that RunSpec's rules do not allow."""
    config = adapter.config
    targets, alpha, dropout = config["target_modules"], config["lora_alpha"], config.get("lora_dropout") or 0.0
    if not isinstance(targets, list) or not 0 < len(targets) <= _MAX_TARGETS:
        raise ValueError
    if not (0 < alpha <= _MAX_ALPHA and 0 <= dropout < 1):
        raise ValueError
    return method_pb2.Lora(
        rank=_size(adapter, ".lora_A.weight", config["r"]),
        alpha=alpha,
        dropout=dropout,
        target_modules=sorted(targets),
        rank_stabilized=bool(config.get("use_rslora")),
        weight_decomposed=bool(config.get("use_dora")),
    )


def _require_layers(own: method_pb2.Lora, other: method_pb2.Lora, path: str) -> None:
    """Raise WEIGHTS_MISMATCH where layers are named that the weights do not have, or not exactly these."""
    if own.target_modules:
        if sorted(own.target_modules) != sorted(other.target_modules):
            raise _contradiction(f"{path}.target_modules", _layers(own), _layers(other))
    elif own.targets and (other.target_modules or own.targets != _preset(other)):
        raise _contradiction(f"{path}.targets", _layers(own), _layers(other))


def _layers(settings: method_pb2.Lora) -> str:
    if settings.target_modules:
        return ", ".join(sorted(settings.target_modules))
    return method_pb2.TargetPreset.Name(_preset(settings))


def _preset(settings: method_pb2.Lora) -> method_pb2.TargetPreset.ValueType:
    return settings.targets or method_pb2.TARGET_PRESET_ALL_LINEAR


def _require_equal(own: Any, other: Any, name: str, path: str) -> None:
    """Raise WEIGHTS_MISMATCH where a setting is given and not that of the weights."""
    field = own.DESCRIPTOR.fields_by_name[name]
    is_set = own.HasField(name) if field.has_presence else bool(getattr(own, name))
    wanted, made = getattr(own, name), getattr(other, name) or _LIKE_UNSET.get(name, getattr(other, name))
    if is_set and wanted != made:
        names = field.enum_type.values_by_number if field.enum_type is not None else None
        shown = (names[value].name if names else str(value).lower() for value in (wanted, made))
        raise _contradiction(f"{path}.{name}", *shown)


def _fill(own: Any, other: Any, *, leave: tuple[str, ...] = ()) -> None:
    """Copy the settings of the weights that the run leaves unset."""
    for field, value in other.ListFields():
        if field.name in leave or (field.name == "targets" and own.target_modules):
            continue
        is_set = own.HasField(field.name) if field.has_presence else bool(getattr(own, field.name))
        if is_set:
            continue
        if field.is_repeated:
            getattr(own, field.name).extend(value)
        else:
            setattr(own, field.name, value)


def _contradiction(path: str, wanted: str, made: str) -> InvalidArgument:
    text = f"is {wanted}, and the weights that the run starts from have {made}; leave it unset"
    return invalid_field(path, text, "WEIGHTS_MISMATCH")


def _cannot_go_on(place: str, what: str) -> InvalidArgument:
    text = f"the adapter {what}, which a run here cannot have; it can be served and measured, not trained further"
    return invalid_field(place, text, "WEIGHTS_MISMATCH")
