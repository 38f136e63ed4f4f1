# SPDX-License-Identifier: Apache-2.0
"""From a request to the run that the formulas see: defaults filled in, names looked up, contradictions refused."""

from dataclasses import dataclass
from functools import lru_cache

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_runtime.errors import InvalidArgument, invalid_field
from finetree_runtime.runspec.conflicts import sequence_problem
from finetree_runtime.runspec.digest import settings_digest
from finetree_runtime.runspec.naming import Names, Split, named_bytes, split
from finetree_runtime.runspec.resolve import LONGEST_KEPT, bare_of, named_spec, settings_of, spec_profile

from finetree_estimator import rows
from finetree_estimator.catalog.architecture import Shape
from finetree_estimator.methods.base import (
    Bottleneck,
    Full,
    LoraAdapters,
    Method,
    Prefix,
    QuantizedLora,
    UnknownTargetError,
    preset_targets,
    target_linears,
)
from finetree_estimator.programs import (
    AXOLOTL,
    FINETREE,
    LITGPT,
    LLM_FOUNDRY,
    PYTORCH,
    TORCHTUNE,
    TRANSFORMERS,
    UNSLOTH,
    Program,
    unraised,
    variant,
)
from finetree_estimator.run import Rows, Run
from finetree_estimator.spec.resolve import Knowledge, read_device, read_model, read_rent
from finetree_estimator.spec.settings import Choices, choices

PRESET_NAMES = {
    rs.TARGET_PRESET_ALL_LINEAR: "all-linear",
    rs.TARGET_PRESET_ATTENTION: "attention",
    rs.TARGET_PRESET_QUERY_VALUE: "query-value",
    rs.TARGET_PRESET_MLP: "mlp",
}
PROGRAM_NAMES = {
    pb.TRAINING_PROGRAM_UNSPECIFIED: FINETREE,
    pb.TRAINING_PROGRAM_FINETREE: FINETREE,
    pb.TRAINING_PROGRAM_TRANSFORMERS: TRANSFORMERS,
    pb.TRAINING_PROGRAM_LITGPT: LITGPT,
    pb.TRAINING_PROGRAM_TORCHTUNE: TORCHTUNE,
    pb.TRAINING_PROGRAM_UNSLOTH: UNSLOTH,
    pb.TRAINING_PROGRAM_LLM_FOUNDRY: LLM_FOUNDRY,
    pb.TRAINING_PROGRAM_PYTORCH: PYTORCH,
    pb.TRAINING_PROGRAM_AXOLOTL: AXOLOTL,
}
_CACHES = {
    pb.ALLOCATOR_CACHE_KEPT: "kept",
    pb.ALLOCATOR_CACHE_EMPTIED: "emptied",
    pb.ALLOCATOR_CACHE_EXPANDABLE: "expandable",
}
_CACHES_OF_OURS = (pb.ALLOCATOR_CACHE_UNSPECIFIED, pb.ALLOCATOR_CACHE_EXPANDABLE)
_LIBRARIES_OF_OURS = (pb.SHARDING_LIBRARY_UNSPECIFIED, pb.SHARDING_LIBRARY_FSDP2)
_ADAPTER_PLACES = {rs.ADAPTER_PLACEMENT_HOULSBY: 2}


@dataclass(slots=True)
class Reading:
    """A request understood."""

    run: Run
    profile: rs.DatasetProfile | None
    """What is known of the data."""
    chosen: Choices
    """What the spec chooses."""
    given: rs.RunSpec
    """The spec before defaults were filled in; not to be changed."""
    _names: Names
    _settings: bytes
    _spec: rs.RunSpec | None = None

    def digest(self, revision: str) -> str:
        """Hash of the plan: the resolved spec, what is known of the data, and the `digest.revision_text`."""
        return settings_digest(self._settings, self._names, self.profile, revision)

    @property
    def spec(self) -> rs.RunSpec:
        """The resolved spec, made when it is asked for: most runs that are tried out are not told of."""
        if self._spec is None:
            self._spec = named_spec(self._settings, self.given)
        return self._spec

    @property
    def written(self) -> bytes:
        """The resolved spec on the wire."""
        return named_bytes(self._settings, self._names)


def read(
    request: pb.EstimateRunRequest,
    knowledge: Knowledge,
    *,
    changed: rs.RunSpec | None = None,
    spec: Split | None = None,
) -> Reading:
    """Understand a request. Raises InvalidArgument and NotFound with the reasons that the rpc documents.

    `changed` is a spec to take in place of the request's own, `spec` is that one in two, where it is at hand.
    """
    given = request.spec if changed is None else changed
    names, without_names = spec or split(given)
    _require(given)
    profile = request.dataset_profile if request.HasField("dataset_profile") else spec_profile(given)
    model = read_model(given.model, knowledge)
    shape = model.shape
    settings = settings_of(bare_of(given, profile=profile, positions=shape.max_positions, settings=without_names))
    chosen = choices(settings)
    problem = chosen.problem or sequence_problem(chosen.spec, shape.max_positions)
    if problem is not None:
        path = f"spec.{problem.field_path}"
        raise InvalidArgument(problem.reason, f"{path}: {problem.message}", violations=[(path, problem.message)])
    method = _method(chosen.method, shape) if len(settings) <= LONGEST_KEPT else read_method(chosen.spec, shape)
    program = _program(request, chosen)
    data = training_rows(chosen, profile, chosen.sequence_length, spread=program.cache != "expandable")
    steps = chosen.steps(data.count) if data is not None else 0
    weight, compute, master = chosen.number_sizes(program)
    accelerator = names.accelerator or ""
    run = Run(  # in the order of its fields: by name each would be searched for, which takes thrice as long
        shape,
        method,
        chosen.device or read_device(accelerator, fp32=chosen.fp32),
        chosen.devices,
        chosen.micro_batch,
        chosen.batch,
        chosen.sequence_length,
        chosen.packing,
        data,
        steps,
        weight,
        compute,
        master,
        chosen.optimizer,
        chosen.checkpointing,
        chosen.offloaded,
        chosen.eager_attention,
        chosen.loss,
        chosen.evaluation(_held_out(request, chosen, profile), steps),
        max(0, steps - 1) // chosen.checkpoint_every,
        chosen.owned or read_rent(chosen.price_id, accelerator, chosen.devices, knowledge.prices),
        model.notes,
        request.runs_per_month,
        request.carbon_kg_per_kwh,
        program,
        chosen.sharding,
        chosen.nodes,
        chosen.in_backward,
    )
    return Reading(run, profile, chosen, given, names, settings)


def _program(request: pb.EstimateRunRequest, chosen: Choices) -> Program:
    """The program that trains, as it is used. Raises what `_as_used` raises."""
    program = PROGRAM_NAMES[request.program]
    trl = program is TRANSFORMERS and chosen.loss == "chunked"
    if trl or request.compiled or request.sharding_library or request.allocator_cache:
        return _as_used(program, request, as_loaded=trl)
    return program


def _as_used(program: Program, request: pb.EstimateRunRequest, *, as_loaded: bool) -> Program:
    """The program with what the request says of it. Raises InvalidArgument: the suite's worker is what it is."""
    if program is FINETREE and request.compiled:
        raise invalid_field(
            "compiled", "this suite's worker runs eagerly: leave it out, or name the program that compiles"
        )
    if program is FINETREE and request.allocator_cache not in _CACHES_OF_OURS:
        text = "this suite's worker has segments that expand: leave it out, or name the program that trains"
        raise invalid_field("allocator_cache", text)
    if program is FINETREE and request.sharding_library not in _LIBRARIES_OF_OURS:
        text = "this suite's worker shards by fully_shard: take SHARDING_LIBRARY_FSDP2, or name the program that trains"
        raise invalid_field("sharding_library", text)
    kept = request.sharding_library in (pb.SHARDING_LIBRARY_UNSPECIFIED, pb.SHARDING_LIBRARY_FSDP)
    cache = _CACHES.get(request.allocator_cache, "")
    casts = request.sharding_library == pb.SHARDING_LIBRARY_DEEPSPEED
    used = variant(program, compiled=request.compiled, frozen_kept=kept, cache=cache, casts_module=casts)
    return unraised(used) if as_loaded else used


@lru_cache(maxsize=4096)
def _method(alone: bytes, shape: Shape) -> Method:
    return read_method(rs.RunSpec.FromString(alone), shape)


def read_method(spec: rs.RunSpec, shape: Shape) -> Method:
    """The method of a resolved spec, checked against the shape. Raises InvalidArgument."""
    kind = spec.WhichOneof("method")
    if kind == "full":
        if spec.full.frozen_layers >= shape.layers:
            text = f"leaves nothing to train: the model has {shape.layers} layers"
            raise invalid_field("spec.full.frozen_layers", text)
        return Full(spec.full.frozen_layers)
    if kind == "prefix":
        return Prefix(spec.prefix.virtual_tokens)
    if kind == "adapter":
        return Bottleneck(spec.adapter.bottleneck_size, _ADAPTER_PLACES.get(spec.adapter.placement, 1))
    if kind == "lora":
        return _lora(spec.lora, shape, "spec.lora")
    stored = spec.qlora.quantization
    return QuantizedLora(
        _lora(spec.qlora.lora, shape, "spec.qlora.lora"),
        bits=8 if stored == rs.QUANTIZATION_INT8 else 4,
        double=spec.qlora.double_quantization,
        grouped=stored == rs.QUANTIZATION_GPTQ_INT4,
    )


def _require(spec: rs.RunSpec) -> None:
    """What cannot be defaulted."""
    if spec.WhichOneof("method") is None:
        raise invalid_field("spec.method", "choose one of full, lora, qlora, prefix and adapter")
    if spec.hardware.WhichOneof("device") is None:
        raise invalid_field("spec.hardware", "name an accelerator, describe a CPU, or give a memory class")


def _lora(given: rs.Lora, shape: Shape, path: str) -> LoraAdapters:
    targets = tuple(given.target_modules) or _preset(given, shape, path)
    try:
        found = target_linears(shape, targets)
    except UnknownTargetError as error:
        names = ", ".join(preset_targets(shape, "all-linear", experts=True))
        text = f"the model has no linear layer {error.name!r}; it has {names}"
        raise invalid_field(f"{path}.target_modules", text) from error
    if given.weight_decomposed and any(part.routed for part in found):
        text = "does not go with adapters of experts, which are stacked parameters and no layers"
        raise invalid_field(f"{path}.weight_decomposed", text)
    return LoraAdapters(given.rank, targets, given.dropout, given.weight_decomposed)


def _preset(given: rs.Lora, shape: Shape, path: str) -> tuple[str, ...]:
    preset = PRESET_NAMES[given.targets]
    targets = preset_targets(shape, preset, experts=given.include_experts)
    if not targets:
        text = f"the preset {preset} has no module in this model, whose MLP is experts alone: set include_experts"
        raise invalid_field(f"{path}.targets", text)
    return targets


def training_rows(
    chosen: Choices, profile: rs.DatasetProfile | None, sequence_length: int, *, spread: bool = False
) -> Rows | None:
    """Rows that a run trains on, cut at a sequence length; None where their number is unknown.

    `spread` asks for how their lengths are spread, which no verdict depends on.
    """
    if profile is None or profile.examples == 0:
        return None
    return _rows(chosen, profile, sequence_length, 1.0 - chosen.looks.split_fraction, spread=spread)


def _rows(
    chosen: Choices, profile: rs.DatasetProfile, sequence_length: int, share: float = 1.0, *, spread: bool = False
) -> Rows:
    learns_all = chosen.learns_all
    return rows.from_profile(
        profile, sequence_length=sequence_length, learns_all=learns_all, share=share, spread=spread
    )


def _held_out(request: pb.EstimateRunRequest, chosen: Choices, profile: rs.DatasetProfile | None) -> Rows | None:
    """Rows that are looked at without being trained on; None where there are none, or nothing is known of them."""
    if request.HasField("evaluation_profile"):
        return _rows(chosen, request.evaluation_profile, chosen.sequence_length)
    if chosen.looks.profile is not None:
        return _rows(chosen, chosen.looks.profile, chosen.sequence_length)
    if chosen.looks.split_fraction > 0 and profile is not None:
        return _rows(chosen, profile, chosen.sequence_length, chosen.looks.split_fraction)
    return None
