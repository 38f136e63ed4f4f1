# SPDX-License-Identifier: Apache-2.0
"""Reading a request: what is known, what it means in the playbook's classes, and what stays unknown."""

from dataclasses import dataclass, field
from typing import Any

from finetree_api.recommender.v1 import recommender_pb2 as rec
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_runtime.plan import spec_profile

from finetree_recommender.answers import CPU, ENUM_WORDS, UNKNOWN, Answers
from finetree_recommender.estimates import Accelerator, Catalogue, Model
from finetree_recommender.pack import Pack
from finetree_recommender.rules import MemoryClass

_ENUMS: dict[str, Any] = {
    "quality": rec.QualityNeed,
    "time": rec.TimeNeed,
    "tasks": rec.TaskVariety,
    "use_case": rec.UseCase,
    "task_kind": rec.TaskKind,
}


@dataclass(frozen=True, slots=True)
class NormalizedInput:
    """An input as it was understood."""

    field_path: str
    value: str
    known: bool


@dataclass(frozen=True, slots=True)
class Inputs:
    """A request, read."""

    request: rec.RecommendRequest
    answers: Answers
    marketed_gb: float | None
    """Memory of the GPU in GB as marketed; None on a CPU and where it is unknown."""
    native_bf16: bool | None
    model: Model | None
    profile: rs.DatasetProfile | None
    listing: tuple[NormalizedInput, ...]
    evidence_profile: bool = False
    """Whether the recipe takes published numbers before the playbook's."""
    catalogue: Catalogue = field(default_factory=Catalogue, repr=False)
    """What it was read with."""

    def reread(self, pack: Pack) -> "Inputs":
        """The same request, read with another pack's classes."""
        return normalize(self.request, pack, self.catalogue)

    @property
    def on_cpu(self) -> bool:
        """Whether the run has no accelerator."""
        return self.answers.memory == CPU

    @property
    def hardware_known(self) -> bool:
        """Whether the request says what to train on."""
        return self.request.hardware.WhichOneof("device") is not None

    @property
    def model_known(self) -> bool:
        """Whether the request names a model."""
        return self.request.HasField("model")

    @property
    def examples(self) -> int | None:
        """Rows of the dataset."""
        return self.profile.examples if self.profile is not None else None


def wants_evidence(request: rec.RecommendRequest, pack: Pack) -> bool:
    """Whether the recipe is that of the evidence; the pack says so where the request does not."""
    if request.profile == rec.RECIPE_PROFILE_UNSPECIFIED:
        return pack.rules.profile == "EVIDENCE"
    return bool(request.profile == rec.RECIPE_PROFILE_EVIDENCE)


def normalize(request: rec.RecommendRequest, pack: Pack, catalogue: Catalogue) -> Inputs:
    """Read a request with a pack's classes and the estimator's catalogue (empty when that cannot be asked)."""
    accelerator = _accelerator(request.hardware, pack, catalogue)
    gb = accelerator.marketed_gb if accelerator is not None else None
    answers = Answers(memory=_memory(request.hardware, gb, pack), budget=_budget(request, pack), **_enum_words(request))
    profile = request.dataset_profile if request.HasField("dataset_profile") else None
    profile = profile or spec_profile(rs.RunSpec(dataset=request.dataset))
    model = _model(request.model, catalogue)
    native_bf16 = accelerator.native_bf16 if accelerator is not None and not _memory_only(request.hardware) else None
    evidence = wants_evidence(request, pack)
    listing = (
        *_listing(request, answers, gb, model, profile),
        NormalizedInput("profile", "evidence" if evidence else "playbook", known=True),
    )
    return Inputs(request, answers, gb, native_bf16, model, profile, listing, evidence, catalogue)


def memory_class(pack: Pack, gb: float) -> MemoryClass:
    """The playbook's class of a memory size in GB; up to five percent short of a class still counts."""
    tolerated = gb * (1 + pack.rules.gate.tolerance.value)
    classes = pack.rules.gate.classes
    return next((item for item in reversed(classes) if tolerated >= item.low), classes[0])


def _memory_only(hardware: rs.Hardware) -> bool:
    return hardware.WhichOneof("device") != "accelerator"


def _accelerator(hardware: rs.Hardware, pack: Pack, catalogue: Catalogue) -> Accelerator | None:
    device = hardware.WhichOneof("device")
    if device == "unknown_accelerator":
        return Accelerator(hardware.unknown_accelerator.marketed_memory_gb, native_bf16=True)
    if device != "accelerator":
        return None
    name = hardware.accelerator.casefold()
    if name in catalogue.accelerators:
        return catalogue.accelerators[name]
    known = (item for item in pack.rules.gate.accelerators if name.startswith(item.prefix))
    return next((Accelerator(item.gb, native_bf16=True) for item in known), None)


def _memory(hardware: rs.Hardware, gb: float | None, pack: Pack) -> str:
    if hardware.WhichOneof("device") == "cpu":
        return CPU
    return UNKNOWN if gb is None else memory_class(pack, gb).key


def _budget(request: rec.RecommendRequest, pack: Pack) -> str:
    if not request.HasField("budget_usd_month"):
        return UNKNOWN
    return next(item.key for item in pack.rules.budget if item.holds(request.budget_usd_month))


def _enum_words(request: rec.RecommendRequest) -> dict[str, str]:
    words = {}
    for name in ENUM_WORDS:
        number = getattr(request, name)
        words[name] = ENUM_WORDS[name][_ENUMS[name].values().index(number) - 1] if number else UNKNOWN
    return words


def _model(source: rs.ModelSource, catalogue: Catalogue) -> Model | None:
    kind = source.WhichOneof("source")
    if kind == "shape":
        # Parameters of a shape are the estimator's to count.
        return Model(0, source.shape.max_position_embeddings)
    name = source.hub.id if kind == "hub" else source.name
    return catalogue.models.get(name.casefold())


def _listing(
    request: rec.RecommendRequest,
    answers: Answers,
    gb: float | None,
    model: Model | None,
    profile: rs.DatasetProfile | None,
) -> tuple[NormalizedInput, ...]:
    found: list[tuple[str, str | None]] = [
        ("model", _model_words(request.model, model) if request.HasField("model") else None),
        ("hardware", _hardware_words(request.hardware, gb)),
        ("budget_usd_month", f"{request.budget_usd_month:g} USD" if answers.budget != UNKNOWN else None),
    ]
    found += [(name, None if answers.get(name) == UNKNOWN else answers.get(name).lower()) for name in ENUM_WORDS]
    found.append(("can_rent", str(request.can_rent).lower() if request.HasField("can_rent") else None))
    found.append(("dataset_profile.examples", f"{profile.examples} examples" if profile is not None else None))
    return tuple(NormalizedInput(path, value or UNKNOWN, value is not None) for path, value in found)


def _model_words(source: rs.ModelSource, model: Model | None) -> str:
    kind = source.WhichOneof("source")
    words = {"hub": source.hub.id, "name": source.name, "path": "a local model"}.get(str(kind), "a shape")
    return f"{words}, {model.parameters} parameters" if model is not None and model.parameters else words


def _hardware_words(hardware: rs.Hardware, gb: float | None) -> str | None:
    device = hardware.WhichOneof("device")
    if device is None:
        return None
    if device == "cpu":
        cores, gib = hardware.cpu.cores, hardware.cpu.memory_bytes / 2**30
        return f"CPU, {cores or UNKNOWN} cores, {f'{gib:.1f} GiB' if gib else 'memory unknown'}"
    size = "memory unknown" if gb is None else f"{gb:g} GB"
    return f"{hardware.accelerator or 'GPU'}, {size}"
