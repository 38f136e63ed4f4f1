# SPDX-License-Identifier: Apache-2.0
"""Inputs of a recommendation: the request in the pack's classes and answers."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import hardware_pb2, model_pb2, training_data_pb2
from finetree_runtime.runspec import model_names
from finetree_runtime.runspec.defaults import suggested_sequence_length

from finetree_recommender.estimator.values import Catalog, Model, has_uneven_keys
from finetree_recommender.formatting import decimal
from finetree_recommender.request.echo import Echoed, echo
from finetree_recommender.request.hardware import Device, memory_class, read_device
from finetree_recommender.request.limits import Limits, max_seconds, month_budget, stated_budget, stated_limits
from finetree_recommender.rule_pack.answers import CPU, PRIORITY_OF, UNKNOWN, WORD_OF, Answers
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.limits import Bracket
from finetree_recommender.trace import Caution


@dataclass(frozen=True)
class Inputs:
    """A request, read with a pack and the estimator's catalog."""

    request: recommendation_pb2.RecommendRequest
    pack: Pack
    answers: Answers
    limits: Limits
    """Limits of the run."""
    device: Device
    model: Model | None
    profile: training_data_pb2.DatasetProfile | None
    evidence_profile: bool = False
    """Whether the recipe takes published numbers before the playbook's."""
    catalog: Catalog = field(default_factory=Catalog, repr=False)
    """Catalog of the estimator; empty where it could not be asked."""
    offered: bool = False
    """Whether the limits of a run are compared with offers to rent, in place of the pack's own figures."""

    def reread(self, pack: Pack) -> "Inputs":
        """Read the request with another pack."""
        read = replace(normalize(self.request, pack, self.catalog), model=self.model)
        return read.on_offer() if self.offered else read

    def on_offer(self) -> "Inputs":
        """Compare the limits with offers to rent, which are for this model; the pack's figures are for 7B models."""
        return replace(self, limits=replace(self.limits, max_seconds=None, run_usd=None), offered=True)

    @property
    def own_figures(self) -> bool:
        """Whether the pack quotes its own hours and prices, and they are of this model or the assumed one."""
        sizes, parameters = self.pack.rules.times.parameters, self.model.parameters if self.model is not None else 0
        if not self.pack.rules.quote_times or (self.model_known and not parameters):
            return False
        return not sizes or not parameters or sizes[0] <= parameters <= sizes[1]

    @property
    def stated_limits(self) -> Limits:
        """Limits of the request, also where they are compared with offers."""
        return stated_limits(self.request)

    @property
    def echo(self) -> tuple[Echoed, ...]:
        """Every input as it was understood, in words."""
        return tuple(
            echo(
                self.request,
                self.answers,
                device=self.device,
                model=self.model,
                profile=self.profile,
                evidence_profile=self.evidence_profile,
            )
        )

    @property
    def cautions(self) -> tuple[Caution, ...]:
        """Cautions on the inputs themselves."""
        return (*self.device.cautions, *_contradictions(self.request, self.pack), *_lengths(self.profile, self.pack))

    @property
    def hardware(self) -> hardware_pb2.Hardware:
        """Hardware of the recipe."""
        return self.device.hardware

    @property
    def marketed_gb(self) -> float | None:
        """Memory that the gate reads, GB as marketed; None on a CPU and where it is unknown."""
        return self.device.gate_gb

    @property
    def native_bf16(self) -> bool | None:
        """Whether the accelerator multiplies bfloat16; None where that is unknown."""
        return self.device.entry.native_bf16 if self.device.entry is not None else None

    @property
    def on_cpu(self) -> bool:
        """Whether the run has no accelerator."""
        return self.answers.memory == CPU

    @property
    def hardware_known(self) -> bool:
        """Whether the hardware, or at least its memory, is known."""
        return self.hardware.WhichOneof("device") is not None

    @property
    def divided(self) -> bool:
        """Whether the model is divided over several devices."""
        return self.hardware.count > 1 and self.hardware.sharding == hardware_pb2.SHARDING_FULL

    @property
    def model_known(self) -> bool:
        """Whether the request names a model."""
        return self.request.HasField("model")

    @cached_property
    def suggested_length(self) -> int:
        """Sequence length that keeps most rows whole; 0 when lengths are unknown."""
        return suggested_sequence_length(self.profile)

    @property
    def matrix_rates(self) -> hardware_pb2.MatrixRates | None:
        """Measured rates of the CPU that would train; None where they are unknown."""
        return self.request.matrix_rates if self.request.HasField("matrix_rates") else None

    @property
    def examples(self) -> int | None:
        """Rows of the dataset."""
        return self.profile.examples if self.profile is not None else None


def normalize(request: recommendation_pb2.RecommendRequest, pack: Pack, catalog: Catalog) -> Inputs:
    """Read a request with a pack's classes and the estimator's catalog (empty when that cannot be asked)."""
    profile = request.dataset_profile if request.HasField("dataset_profile") else None
    if profile is None and request.dataset.WhichOneof("source") == "profile":
        profile = request.dataset.profile
    device = read_device(request.hardware, pack, catalog)
    examples = profile.examples if profile is not None else None
    model = _model(request.model, catalog)
    limits = replace(
        stated_limits(request),
        capability=device.capability,
        uneven_keys=model is not None and model.uneven_keys,
        examples=examples,
    )
    return Inputs(
        request=request,
        pack=pack,
        answers=_answers(request, pack, _memory(device, pack), examples),
        limits=limits,
        device=device,
        model=model,
        profile=profile,
        evidence_profile=_wants_evidence(request, pack),
        catalog=catalog,
    )


def _wants_evidence(request: recommendation_pb2.RecommendRequest, pack: Pack) -> bool:
    """Whether the recipe prefers published numbers, by the request or else by the pack."""
    if request.profile == recommendation_pb2.RECIPE_PROFILE_UNSPECIFIED:
        return pack.rules.profile == "EVIDENCE"
    return bool(request.profile == recommendation_pb2.RECIPE_PROFILE_EVIDENCE)


def _answers(request: recommendation_pb2.RecommendRequest, pack: Pack, memory: str, examples: int | None) -> Answers:
    """Answers of the request in the pack's words."""
    rules, count = pack.rules, request.task_count or None
    words = {name: of[getattr(request, name)] for name, of in WORD_OF.items()}
    # A number answers its question where the question is not answered itself.
    for name, brackets, number in (
        ("time", rules.durations, max_seconds(request)),
        ("tasks", rules.task_counts, count),
    ):
        if number is not None and words[name] == UNKNOWN:
            words[name] = next((item.implies for item in brackets if item.holds(number)), "") or UNKNOWN
    return Answers(
        memory=memory,
        budget=bracket_key(rules.budget, month_budget(request)),
        task_count=bracket_key(rules.task_counts, count),
        data=bracket_key(rules.data_sizes, examples),
        priorities=tuple(PRIORITY_OF[item] for item in request.priorities),
        **words,
    )


def bracket_key(brackets: tuple[Bracket, ...], number: float | None) -> str:
    """Answer that a number stands for; unknown without a number, or without brackets."""
    if number is None or not brackets:
        return UNKNOWN
    # A loaded pack's brackets follow each other without a gap, so the upper ends are enough.
    for item in brackets:
        if number < item.high or (item.through and number == item.high):
            return item.key
    return brackets[-1].key


def _memory(device: Device, pack: Pack) -> str:
    if device.hardware.WhichOneof("device") == "cpu":
        return CPU
    return UNKNOWN if device.gate_gb is None else memory_class(pack, device.gate_gb).key


def _model(source: model_pb2.ModelSource, catalog: Catalog) -> Model | None:
    kind = source.WhichOneof("source")
    if kind == "shape":
        # The estimator counts the parameters of a shape.
        shape = source.shape
        uneven = has_uneven_keys(shape)
        return Model(0, shape.max_position_embeddings, shape.experts, family=shape.family, uneven_keys=uneven)
    name = source.hub.id if kind == "hub" else source.name
    return model_names.find(catalog.models, name)


def _lengths(profile: training_data_pb2.DatasetProfile | None, pack: Pack) -> Iterator[Caution]:
    """Numbers of the data that contradict each other."""
    if profile is None:
        return
    rule_id = pack.rules.sequence.p99.id
    if 0 < profile.total_tokens < profile.examples:
        text = f"{profile.examples:,} rows with {profile.total_tokens:,} tokens in total have less than one each: "
        yield Caution("INPUTS_DISAGREE", f"{text}state the tokens of all rows (total_tokens)", rule_id)
    counted = sum(bucket.count for bucket in profile.token_lengths)
    if counted and counted != profile.examples:
        text = f"lengths of {counted:,} rows were given for {profile.examples:,} rows: they are taken as shares of all"
        yield Caution("INPUTS_DISAGREE", text, rule_id)


def _contradictions(request: recommendation_pb2.RecommendRequest, pack: Pack) -> Iterator[Caution]:
    """Inputs that contradict each other, and which of them is used."""
    run, month, runs = stated_budget(request, "run"), stated_budget(request, "month"), request.runs_per_month
    if run is not None and month is not None and runs:
        needs = run * runs
        if needs > month:
            each, count = decimal(run), f"{runs:g} run{'s' if runs > 1 else ''}"
            text = f"{count} of {each} USD: {decimal(needs)} USD a month, whose budget is {decimal(month)}"
            yield Caution("INPUTS_DISAGREE", f"{text}: a run may cost {month / runs:.2f} USD", "limit.budget")
    counted = next((i for i in pack.rules.task_counts if request.task_count and i.holds(request.task_count)), None)
    single = request.tasks == recommendation_pb2.TASK_VARIETY_SINGLE
    if counted is not None and request.tasks and single != (counted.implies == "SINGLE"):
        word = recommendation_pb2.TaskVariety.Name(request.tasks).removeprefix("TASK_VARIETY_").lower()
        text = f"tasks says {word}, task_count says {request.task_count}: tasks is used"
        yield Caution("INPUTS_DISAGREE", text, counted.id)
