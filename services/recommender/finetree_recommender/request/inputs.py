# SPDX-License-Identifier: Apache-2.0
"""Reading a request: what is known, what it means in the playbook's classes, and what stays unknown."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, NamedTuple

from finetree_api.recommender.v1 import recommender_pb2 as rec
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_runtime.runspec import model_names
from finetree_runtime.runspec.defaults import suggested_sequence_length

from finetree_recommender.decision.limits import Demands, plain
from finetree_recommender.estimator.values import Catalogue, Model
from finetree_recommender.policy.answers import CPU, PRIORITY_OF, SERVING_OF, UNKNOWN, WORD_OF, Answers
from finetree_recommender.policy.pack import Pack
from finetree_recommender.policy.schema.wish_rules import Bracket
from finetree_recommender.request.echo import Block, Listed, listing
from finetree_recommender.request.hardware import Device, memory_class, read_device
from finetree_recommender.trace import Caution


class Said(NamedTuple):
    """What a request says that packs turn into answers."""

    enums: tuple[int, ...]
    """Answers that are enums of the contract, in the order of `WORD_OF`."""
    task_count: int
    seconds: float | None
    """Longest time of a run."""
    month: float | None
    """Budget of a month in USD."""
    priorities: tuple[int, ...]


@dataclass(slots=True)
class Inputs:
    """A request, read. Not to be changed; frozen, it would take thrice as long to make, as each of these does."""

    request: rec.RecommendRequest
    pack: Pack
    """What it was read with."""
    answers: Answers
    demands: Demands
    device: Device
    model: Model | None
    profile: rs.DatasetProfile | None
    said: Said
    """What the answers are read from."""
    evidence_profile: bool = False
    """Whether the recipe takes published numbers before the playbook's."""
    catalogue: Catalogue = field(default_factory=Catalogue, repr=False)
    """What it was read with."""
    kept: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)
    """What was found out of the request, so that it is found out once."""
    offered: bool = False
    """Whether offers to rent are held against the limits of a run, in place of the pack's own hours and prices."""

    def reread(self, pack: Pack) -> "Inputs":
        """The same request, read with another pack's classes."""
        request, said, catalogue, device = self.request, self.said, self.catalogue, self.device
        if pack is not self.pack:
            device = read_device(request.hardware, pack, catalogue)
        answers, demands = _answers(pack, said, _memory(device, pack)), self.demands
        if device.capability != demands.capability:
            demands = demands._replace(capability=device.capability)
        given = (request, pack, answers, demands, device, self.model, self.profile, said)
        return Inputs(*given, wants_evidence(request, pack), catalogue, offered=self.offered)

    def on_offer(self) -> "Inputs":
        """The same, where offers to rent tell what this model takes, in place of the hours of 7B models."""
        return replace(self, demands=self.demands._replace(deadline_seconds=None, run_usd=None), offered=True)

    @property
    def limits(self) -> Demands:
        """Longest time and largest cost of a run, whatever they are held against."""
        return Demands(deadline_seconds=_seconds(self.request), run_usd=_run_budget(self.request))

    @property
    def blocks(self) -> Iterator[Block]:
        """Every input as it was understood, in words."""
        evidence = self.evidence_profile
        return listing(self.request, self.answers, self.device, self.model, self.profile, evidence=evidence)

    @property
    def listing(self) -> tuple[Listed, ...]:
        """The inputs of all `blocks`."""
        return tuple(chain.from_iterable(block.listed for block in self.blocks))

    @property
    def cautions(self) -> tuple[Caution, ...]:
        """What is odd about the inputs themselves."""
        return (*self.device.cautions, *_contradictions(self.request, self.pack), *_lengths(self.profile, self.pack))

    @property
    def hardware(self) -> rs.Hardware:
        """What the recipe runs on."""
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
        """Whether it is known what to train on, or at least with how much memory."""
        return self.hardware.WhichOneof("device") is not None

    @property
    def model_known(self) -> bool:
        """Whether the request names a model."""
        return self.request.HasField("model")

    @property
    def suggested_length(self) -> int:
        """Tokens that keep most rows whole; 0 when lengths are unknown."""
        found: int | None = self.kept.get("suggested_length")
        if found is None:
            found = self.kept["suggested_length"] = suggested_sequence_length(self.profile)
        return found

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
    profile = request.dataset_profile if request.HasField("dataset_profile") else None
    if profile is None and request.dataset.WhichOneof("source") == "profile":
        profile = request.dataset.profile
    device, said = read_device(request.hardware, pack, catalogue), _said(request)
    answers = _answers(pack, said, _memory(device, pack))
    demands = _demands(request, device, profile.examples if profile is not None else None)
    model, evidence = _model(request.model, catalogue), wants_evidence(request, pack)
    return Inputs(request, pack, answers, demands, device, model, profile, said, evidence, catalogue)


def _demands(request: rec.RecommendRequest, device: Device, examples: int | None) -> Demands:
    return Demands(
        deadline_seconds=_seconds(request),
        run_usd=_run_budget(request),
        serving=tuple([SERVING_OF[item] for item in request.serving]),
        capability=device.capability,
        examples=examples,
    )


def month_budget(request: rec.RecommendRequest) -> float | None:
    """Budget of a month in USD: the one given, else that of a run times the runs of a month."""
    if request.HasField("budget_usd_month"):
        return request.budget_usd_month
    if request.HasField("budget_usd_run") and request.runs_per_month:
        return request.budget_usd_run * request.runs_per_month
    return None


def _run_budget(request: rec.RecommendRequest) -> float | None:
    """Largest cost of one run in USD: the budget of a run, and no more than a month has for each of its runs."""
    limits = [request.budget_usd_run] if request.HasField("budget_usd_run") else []
    if request.HasField("budget_usd_month"):
        limits.append(request.budget_usd_month / max(1, request.runs_per_month))
    return min(limits, default=None)


def _seconds(request: rec.RecommendRequest) -> float | None:
    return request.deadline.ToNanoseconds() / 1e9 if request.HasField("deadline") else None


def _said(request: rec.RecommendRequest) -> Said:
    enums = tuple([getattr(request, name) for name in WORD_OF])
    return Said(enums, request.task_count, _seconds(request), month_budget(request), tuple(request.priorities))


def _answers(pack: Pack, said: Said, memory: str) -> Answers:
    """The answers in a pack's words."""
    rules, count = pack.rules, said.task_count or None
    words = [of[number] for of, number in zip(WORD_OF.values(), said.enums, strict=True)]
    # A number answers the question that it is about, where nobody else did.
    for place, brackets, number in ((_TIME, rules.deadlines, said.seconds), (_TASKS, rules.task_counts, count)):
        if number is not None and words[place] == UNKNOWN:
            words[place] = next((item.implies for item in brackets if item.holds(number)), "") or UNKNOWN
    counted = bracket_key(rules.task_counts, count)
    priorities = tuple([PRIORITY_OF[item] for item in said.priorities])
    return tuple.__new__(Answers, (memory, bracket_key(rules.budget, said.month), *words, counted, priorities))


_TIME, _TASKS = (list(WORD_OF).index(name) for name in ("time", "tasks"))


def bracket_key(brackets: tuple[Bracket, ...], number: float | None) -> str:
    """The answer that a number is; unknown without one."""
    if number is None:
        return UNKNOWN
    # A loaded pack's brackets follow each other without a gap, so that the upper end alone tells.
    for item in brackets:
        if number < item.high or (item.through and number == item.high):
            return item.key
    return brackets[-1].key


def _memory(device: Device, pack: Pack) -> str:
    if device.hardware.WhichOneof("device") == "cpu":
        return CPU
    return UNKNOWN if device.gate_gb is None else memory_class(pack, device.gate_gb).key


def _model(source: rs.ModelSource, catalogue: Catalogue) -> Model | None:
    kind = source.WhichOneof("source")
    if kind == "shape":
        # Parameters of a shape are the estimator's to count.
        return Model(0, source.shape.max_position_embeddings, source.shape.experts)
    name = source.hub.id if kind == "hub" else source.name
    return model_names.find(catalogue.models, name)


def _lengths(profile: rs.DatasetProfile | None, pack: Pack) -> Iterator[Caution]:
    """Numbers of the data that do not go together."""
    if profile is None:
        return
    rule_id = pack.rules.sequence.p99.id
    if 0 < profile.total_tokens < profile.examples:
        text = f"{profile.examples:,} rows with {profile.total_tokens:,} tokens in all have less than one each: "
        yield Caution("INPUTS_DISAGREE", f"{text}say the tokens of all rows (total_tokens)", rule_id)
    counted = sum(bucket.count for bucket in profile.token_lengths)
    if counted and counted != profile.examples:
        text = f"the lengths of {counted:,} rows were given for {profile.examples:,}: they count as those of all"
        yield Caution("INPUTS_DISAGREE", text, rule_id)


def _contradictions(request: rec.RecommendRequest, pack: Pack) -> Iterator[Caution]:
    """Inputs that say different things of the same; which of them counts."""
    runs, month = request.runs_per_month, request.budget_usd_month
    if request.HasField("budget_usd_month") and request.HasField("budget_usd_run") and runs:
        needs = request.budget_usd_run * runs
        if needs > month:
            each, count = plain(request.budget_usd_run), f"{runs} run{'s' if runs > 1 else ''}"
            text = f"{count} of {each} USD: {plain(needs)} USD a month, whose budget is {plain(month)}"
            yield Caution("INPUTS_DISAGREE", f"{text}: a run may cost {month / runs:.2f} USD", "demand.budget")
    counted = next((i for i in pack.rules.task_counts if request.task_count and i.holds(request.task_count)), None)
    single = request.tasks == rec.TASK_VARIETY_SINGLE
    if counted is not None and request.tasks and single != (counted.implies == "SINGLE"):
        word = rec.TaskVariety.Name(request.tasks).removeprefix("TASK_VARIETY_").lower()
        text = f"tasks says {word}, task_count says {request.task_count}: the word decided, the number only cautions"
        yield Caution("INPUTS_DISAGREE", text, counted.id)
