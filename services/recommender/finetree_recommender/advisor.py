# SPDX-License-Identifier: Apache-2.0
"""A recommendation from beginning to end: read the request, ask the estimator once, decide, and explain."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from finetree_api.estimator.v1 import estimator_pb2 as est
from finetree_api.recommender.v1 import recommender_pb2 as rec
from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_runtime.digest import settings_digest
from finetree_runtime.errors import DomainError, FailedPrecondition, InvalidArgument, NotFound, invalid_field

from finetree_recommender import cautions, confidence, counterfactuals, fit, recipe, renting, wishes
from finetree_recommender import others as other_packs
from finetree_recommender.assess import Assessment, assess
from finetree_recommender.counterfactuals import Counterfactual, Gap
from finetree_recommender.estimates import NO_CATALOGUE, Catalogue, Evidence, Priced, Refused
from finetree_recommender.inputs import Inputs, normalize
from finetree_recommender.methods import Method
from finetree_recommender.others import OtherVerdict
from finetree_recommender.pack import BUILTIN, DEFAULT_PACK, Pack
from finetree_recommender.pipeline import Decision
from finetree_recommender.recipe import Recipe
from finetree_recommender.recipe_rules import Adaptation
from finetree_recommender.situation import Situation
from finetree_recommender.trace import Caution, Step

ANY_SHAPE = rs.ModelShape(hidden_size=64, layers=1, intermediate_size=64, attention_heads=1, vocab_size=64)
"""A model to ask about hardware with."""
CATALOGUE_TRIES = 3
"""Questions that are asked again because the catalogue changed under them."""


class EstimatorUnavailableError(Exception):
    """The estimator did not answer."""


class Estimator(Protocol):
    """The estimator, as far as a recommendation needs it."""

    async def catalogue(self) -> Catalogue:
        """Accelerators and models; remembered from call to call.

        Raises:
            EstimatorUnavailableError: It did not answer.
        """
        ...

    async def price(self, rows: dict[Method, est.EstimateRunRequest]) -> Evidence:
        """Estimates of all methods' recipes, each adapted until it fits, in one call.

        Raises:
            EstimatorUnavailableError: It did not answer.
        """
        ...

    async def estimates(self, rows: dict[Method, est.EstimateRunRequest]) -> dict[Method, est.Estimate]:
        """Estimates as they come, in one call; a row that is refused is left out.

        Raises:
            EstimatorUnavailableError: It did not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Everything that a reply says."""

    pack: Pack
    inputs: Inputs
    decision: Decision
    recipe: Recipe | None
    """None where nothing was shown to train."""
    priced: Priced | None
    trace: tuple[Step, ...]
    methods: tuple[Assessment, ...]
    cautions: tuple[Caution, ...]
    counterfactuals: tuple[Counterfactual, ...]
    gaps: tuple[Gap, ...]
    confidence: confidence.Confidence
    revision: ev.Revision
    plan_digest: str
    others: tuple[OtherVerdict, ...] = ()


class Advisor:
    """Recommends with a set of packs and an estimator."""

    def __init__(self, packs: Mapping[str, Pack], estimator: Estimator) -> None:
        self._packs = packs
        self._estimator = estimator

    def pack(self, policy: str) -> Pack:
        """The named pack, or the default one.

        Raises:
            NotFound: POLICY_NOT_FOUND.
        """
        found = self._packs.get(policy or DEFAULT_PACK)
        if found is None:
            known = ", ".join(sorted(self._packs))
            raise NotFound("POLICY_NOT_FOUND", f"policy: there is no rule pack {policy!r}; there is {known}")
        return found

    async def recommend(self, request: rec.RecommendRequest) -> Recommendation:
        """Answer a request.

        Raises:
            InvalidArgument: A field is wrong.
            NotFound: POLICY_NOT_FOUND, MODEL_NOT_FOUND, ACCELERATOR_NOT_FOUND.
            FailedPrecondition: REVISION_UNAVAILABLE.
        """
        pack = self.pack(request.policy)
        _check_lengths(request)
        check_pin(request.pinned.pack, pack, "pinned.pack")
        inputs, evidence, missing = await self._ask(request, pack)
        if evidence is None:
            _check_estimator_pins(request.pinned)
        rented = await self._offers(pack, inputs, evidence)
        return conclude(pack, inputs, evidence, missing, self._builtin(), rented=rented)

    async def _offers(self, pack: Pack, inputs: Inputs, evidence: Evidence | None) -> tuple[renting.Offer, ...]:
        """What could be rented, where that helps; none where the estimator does not answer."""
        if not renting.wanted(inputs, evidence):
            return ()
        request, catalogue = inputs.request, inputs.catalogue
        rows = renting.questions(pack, request, catalogue, _parameters(inputs, evidence))
        try:
            found = await self._estimator.estimates(rows)
        except EstimatorUnavailableError:
            return ()
        return renting.offers(pack, request, catalogue, found)

    def _builtin(self) -> tuple[Pack, ...]:
        """The packs that a reply is compared with: those that come with the service."""
        return tuple(found for name in BUILTIN if (found := self._packs.get(name)) is not None)

    async def _ask(self, request: rec.RecommendRequest, pack: Pack) -> tuple[Inputs, Evidence | None, str]:
        try:
            inputs, evidence = await self._price(request, pack)
        except EstimatorUnavailableError:
            return normalize(request, pack, NO_CATALOGUE), None, cautions.ESTIMATOR_UNAVAILABLE
        if evidence is None:
            return inputs, None, cautions.HARDWARE_UNKNOWN if inputs.model_known else cautions.MODEL_UNKNOWN
        if not any(isinstance(row, Priced) for row in evidence.rows.values()):
            refusal = _refusal(evidence)
            if refusal.reason == "MODEL_NOT_FOUND" and request.model.WhichOneof("source") == "path":
                return inputs, None, cautions.MODEL_NOT_PRICED
            raise _as_error(refusal)
        return inputs, evidence, ""

    async def _price(self, request: rec.RecommendRequest, pack: Pack) -> tuple[Inputs, Evidence | None]:
        """Inputs and evidence of one catalogue; no evidence where there is no model, or no hardware, to price."""
        for _ in range(CATALOGUE_TRIES):
            catalogue = await self._estimator.catalogue()
            inputs = normalize(request, pack, catalogue)
            if not inputs.model_known:
                await self._check_hardware(request)
                return inputs, None
            if not inputs.hardware_known:
                await self._check_model(request, inputs)
                return inputs, None
            evidence = await self._estimator.price(_questions(pack, inputs))
            # A catalogue that changed under the question would mix two revisions in one answer.
            if await self._estimator.catalogue() is catalogue:
                return inputs, evidence
        raise EstimatorUnavailableError("the catalogue changes from call to call")

    async def _check_hardware(self, request: rec.RecommendRequest) -> None:
        """Refuse an accelerator that the estimator does not know, also where there is no model to price on it."""
        if request.hardware.WhichOneof("device") != "accelerator":
            return
        spec = rs.RunSpec(model=rs.ModelSource(shape=ANY_SHAPE), lora=rs.Lora(), hardware=request.hardware)
        answer = (await self._estimator.price({Method.LORA: est.EstimateRunRequest(spec=spec)})).rows[Method.LORA, 0]
        if isinstance(answer, Refused) and answer.reason == "ACCELERATOR_NOT_FOUND":
            raise _as_error(answer)

    async def _check_model(self, request: rec.RecommendRequest, inputs: Inputs) -> None:
        """Refuse a model that the estimator does not know, also where there is no hardware to price it on."""
        if inputs.model is not None or request.model.WhichOneof("source") not in ("name", "hub"):
            return
        spec = rs.RunSpec(model=request.model, lora=rs.Lora(), hardware=rs.Hardware(cpu=rs.CpuDevice()))
        answer = (await self._estimator.price({Method.LORA: est.EstimateRunRequest(spec=spec)})).rows[Method.LORA, 0]
        if isinstance(answer, Refused) and answer.reason == "MODEL_NOT_FOUND":
            raise _as_error(answer)


def conclude(
    pack: Pack,
    inputs: Inputs,
    evidence: Evidence | None,
    missing: str,
    others: Iterable[Pack] = (),
    *,
    rented: tuple[renting.Offer, ...] = (),
) -> Recommendation:
    """Everything after the estimator's answer: pure.

    `missing` is the code of why there is no evidence, `others` are packs to compare with, `rented` is what could be
    rented.
    """
    if rented and evidence is None:
        inputs = inputs.on_offer()
    situation = Situation.of(pack, inputs, evidence)
    decision = situation.decide()
    neighbours = counterfactuals.explore(situation, decision)
    parameters = _parameters(inputs, evidence)
    unmet = len(tuple(wishes.unmet(situation, decision)))
    built, applied = _recipe(pack, inputs, decision, parameters)
    revision = _revision(pack, evidence)
    overruled = decision.overruled_rule_id
    return Recommendation(
        pack=pack,
        inputs=inputs,
        decision=decision,
        recipe=built,
        priced=_priced(evidence, decision),
        trace=(
            *decision.choice.steps,
            *fit.steps(pack, evidence, decision.settled, applied, overruled),
        ),
        methods=assess(situation, decision, rented),
        cautions=cautions.collect(
            situation, decision, missing=missing, parameters=parameters, built=built, rented=rented
        ),
        counterfactuals=neighbours.flips,
        gaps=neighbours.gaps,
        confidence=confidence.judge(situation, decision, neighbours, parameters, unmet),
        revision=revision,
        plan_digest=_digest(built, inputs, revision) if built is not None else "",
        others=other_packs.verdicts(others, situation, decision),
    )


def _recipe(
    pack: Pack, inputs: Inputs, decision: Decision, parameters: int | None
) -> tuple[recipe.Recipe | None, tuple[Adaptation, ...]]:
    """The recipe of the verdict, and the adaptations that are in it."""
    if decision.method is None:
        return None, ()
    adapted = decision.settled.adapted
    built = recipe.build(pack, inputs, decision.method, parameters=parameters, adapted=adapted)
    return built, recipe.adaptations(pack, inputs, decision.method)[:adapted]


def _priced(evidence: Evidence | None, decision: Decision) -> Priced | None:
    """What the verdict's recipe takes, where the estimator said so."""
    if evidence is None or decision.method is None:
        return None
    row = evidence.rows.get((decision.method, decision.settled.adapted))
    return row if isinstance(row, Priced) else None


def _digest(built: Recipe, inputs: Inputs, revision: ev.Revision) -> str:
    return settings_digest(built.settings, built.spec, inputs.profile, revision)


def _questions(pack: Pack, inputs: Inputs) -> dict[Method, est.EstimateRunRequest]:
    """Every method's recipe, with its adaptations to be tried where it does not fit."""
    request = inputs.request
    beside = est.EstimateRunRequest(view=est.ESTIMATE_VIEW_SUMMARY)
    if inputs.profile is not None:
        beside.dataset_profile.CopyFrom(inputs.profile)
    if request.HasField("evaluation_profile"):
        beside.evaluation_profile.CopyFrom(request.evaluation_profile)
    if request.HasField("pinned"):
        beside.pinned.CopyFrom(request.pinned)
        beside.pinned.ClearField("pack")
    return recipe.questions(pack, inputs, _parameters(inputs, None), beside)


def _parameters(inputs: Inputs, evidence: Evidence | None) -> int | None:
    """Size of the model; the estimator's count where it has one, else the catalogue's."""
    if evidence is not None and evidence.parameters:
        return evidence.parameters
    return (inputs.model.parameters or None) if inputs.model is not None else None


def _revision(pack: Pack, evidence: Evidence | None) -> ev.Revision:
    revision = ev.Revision()
    if evidence is not None:
        revision.CopyFrom(evidence.revision)
    revision.pack.CopyFrom(pack.revision)
    return revision


def _check_lengths(request: rec.RecommendRequest) -> None:
    """A histogram that does not ascend, or whose counts do not add up, would size the recipe wrongly."""
    for path, profile in (
        ("dataset_profile", request.dataset_profile),
        ("dataset.profile", request.dataset.profile),
        ("evaluation_profile", request.evaluation_profile),
    ):
        bounds = [bucket.upper_bound for bucket in profile.token_lengths]
        if any(left >= right for left, right in pairwise(bounds)):
            raise invalid_field(f"{path}.token_lengths", "upper_bound must ascend from bucket to bucket; sort them")


def check_pin(pinned: ev.RevisionComponent, pack: Pack, path: str) -> None:
    """Refuse a pinned pack that is not the loaded one; `path` is the pin's field.

    Raises:
        FailedPrecondition: REVISION_UNAVAILABLE.
    """
    ours = pack.revision
    for name in ("id", "sha256"):
        wanted, has = getattr(pinned, name), getattr(ours, name)
        if wanted and wanted != has:
            text = f"{path}.{name}: {wanted} is not to be had, this server has {has}; pin that or none"
            raise FailedPrecondition("REVISION_UNAVAILABLE", text, violations=[(f"{path}.{name}", text)])


def _check_estimator_pins(pinned: ev.Revision) -> None:
    """A pinned revision that nobody confirmed must not pass for one that was used."""
    for name in ("engine", "catalogue", "price_book", "calibration"):
        if pinned.HasField(name):
            text = f"pinned.{name}: the estimator that holds it gave no answer; try again, or pin none"
            raise FailedPrecondition("REVISION_UNAVAILABLE", text, violations=[(f"pinned.{name}", text)])


def _refusal(evidence: Evidence) -> Refused:
    """The refusal that tells most: a method that is not supported hides no other fault."""
    refused = [row for row in evidence.rows.values() if isinstance(row, Refused)]
    return next((row for row in refused if row.reason != "METHOD_NOT_SUPPORTED"), refused[0])


def _as_error(refusal: Refused) -> DomainError:
    if refusal.reason in ("MODEL_NOT_FOUND", "ACCELERATOR_NOT_FOUND"):
        return NotFound(refusal.reason, refusal.message)
    if refusal.reason == "REVISION_UNAVAILABLE":
        return FailedPrecondition(refusal.reason, refusal.message)
    violations = [(path.removeprefix("spec."), text) for path, text in refusal.violations]
    if refusal.reason == "PRICE_NOT_FOUND":
        violations = [("ownership.rented.price_id", refusal.message)]
    # The estimator was asked about a spec; our caller's fields are those of the spec, one level up.
    return InvalidArgument("INVALID_REQUEST", refusal.message.removeprefix("spec."), violations=violations)
