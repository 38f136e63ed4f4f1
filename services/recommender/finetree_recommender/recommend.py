# SPDX-License-Identifier: Apache-2.0
"""A recommendation from request to result: read the request, ask the estimator once, and conclude."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import evidence_pb2, hardware_pb2, method_pb2, model_pb2, run_spec_pb2
from finetree_runtime.errors import NotFound
from finetree_runtime.runspec.digest import plan_digest

from finetree_recommender.decision import fit
from finetree_recommender.decision.pipeline import Decision
from finetree_recommender.decision.situation import Situation
from finetree_recommender.estimator.values import (
    Catalog,
    Estimate,
    Estimator,
    EstimatorUnavailableError,
    Evidence,
    Model,
    Refused,
)
from finetree_recommender.explain import cautions, confidence, counterfactuals, other_packs, rental_offers
from finetree_recommender.explain.assessment import Assessment, assess
from finetree_recommender.explain.counterfactuals import Counterfactual, Gap
from finetree_recommender.explain.other_packs import OtherVerdict
from finetree_recommender.explain.unmet_limits import unmet
from finetree_recommender.explain.ways_out.offers import WayOut, ways_out, with_truncated_rows
from finetree_recommender.explain.ways_out.questions import NO_ANSWERS, Answers, wanted, ways_out_questions
from finetree_recommender.method import Method
from finetree_recommender.recipe import build as recipes
from finetree_recommender.recipe.build import Recipe
from finetree_recommender.request.inputs import Inputs, normalize
from finetree_recommender.request.refusals import (
    as_error,
    check_currencies,
    check_estimator_pins,
    check_lengths,
    check_pin,
    refusal_of,
)
from finetree_recommender.rule_pack.pack import BUILTIN, DEFAULT_PACK, Pack
from finetree_recommender.trace import Caution, Step

ANY_SHAPE = model_pb2.ModelShape(hidden_size=64, layers=1, intermediate_size=64, attention_heads=1, vocab_size=64)
"""Model for questions about hardware."""
CATALOG_TRIES = 3
"""Attempts where the catalog changes during a request."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Content of a reply."""

    situation: Situation
    recipe: Recipe | None
    """None where no method was shown to fit."""
    estimate: Estimate | None
    """Estimate of the recipe; None where there is none."""
    fit_steps: tuple[Step, ...]
    """Last steps of the trace; those before are the choice's."""
    methods: tuple[Assessment, ...]
    cautions: tuple[Caution, ...]
    counterfactuals: tuple[Counterfactual, ...]
    gaps: tuple[Gap, ...]
    confidence: confidence.Confidence
    revision: evidence_pb2.Revision
    plan_digest: str
    others: tuple[OtherVerdict, ...]
    ways_out: tuple[WayOut, ...]
    """What would train, where nothing does as asked."""

    @property
    def pack(self) -> Pack:
        """Pack that decided."""
        return self.situation.pack

    @property
    def inputs(self) -> Inputs:
        """Inputs of the request."""
        return self.situation.inputs

    @property
    def decision(self) -> Decision:
        """Verdict, and what led to it."""
        return self.situation.decision

    @property
    def trace(self) -> tuple[Step, ...]:
        """Steps of the decision, in order."""
        return (*self.decision.choice.steps, *self.fit_steps)


class Recommender:
    """Recommends with a set of packs and an estimator."""

    def __init__(self, packs: Mapping[str, Pack], estimator: Estimator) -> None:
        self._packs = packs
        self._estimator = estimator

    def pack(self, pack_id: str) -> Pack:
        """Return the named pack, or the default one.

        Raises:
            NotFound: RULE_PACK_NOT_FOUND.
        """
        found = self._packs.get(pack_id or DEFAULT_PACK)
        if found is None:
            known = ", ".join(sorted(self._packs))
            raise NotFound("RULE_PACK_NOT_FOUND", f"rule_pack: there is no rule pack {pack_id!r}; there is {known}")
        return found

    async def recommend(self, request: recommendation_pb2.RecommendRequest) -> Recommendation:
        """Answer a request.

        Raises:
            InvalidArgument: INVALID_REQUEST, CURRENCY_MISMATCH.
            NotFound: RULE_PACK_NOT_FOUND, MODEL_NOT_FOUND, ACCELERATOR_NOT_FOUND.
            FailedPrecondition: REVISION_UNAVAILABLE.
        """
        pack = self.pack(request.rule_pack)
        check_lengths(request)
        check_currencies(request)
        check_pin(request.pinned.pack, pack, "pinned.pack")
        inputs, evidence, missing = await self._ask(request, pack)
        if evidence is None:
            check_estimator_pins(request.pinned)
        ways, rented = await asyncio.gather(
            self._ways_out(pack, inputs, evidence), self._offers(pack, inputs, evidence)
        )
        if evidence is not None and ways:
            evidence = with_truncated_rows(pack, inputs, evidence, ways)
        return conclude(pack, inputs, evidence, missing=missing, others=self._builtin(), rented=rented, ways=ways)

    async def catalog(self) -> Catalog:
        """Return what the estimator knows of models; nothing where it does not answer."""
        try:
            return await self._estimator.catalog()
        except EstimatorUnavailableError:
            return Catalog()

    async def _ways_out(self, pack: Pack, inputs: Inputs, evidence: Evidence | None) -> Answers:
        """Ask what would train, where nothing does as asked; nothing where the estimator does not answer."""
        if evidence is None or not wanted(evidence):
            return {}
        try:
            questions = ways_out_questions(pack, inputs, evidence)
            for row in questions.values():
                _as_asked(row, inputs.request)
            return await self._estimator.estimates(questions)
        except EstimatorUnavailableError:
            return {}

    async def _offers(self, pack: Pack, inputs: Inputs, evidence: Evidence | None) -> tuple[rental_offers.Offer, ...]:
        """Find offers to rent, where they help; none where the estimator does not answer."""
        if not rental_offers.wanted(inputs, evidence):
            return ()
        request, catalog = inputs.request, inputs.catalog
        rows = rental_offers.questions(pack, request, catalog, parameters=parameters_of(inputs, evidence))
        try:
            found = await self._estimator.estimates(rows)
        except EstimatorUnavailableError:
            return ()
        return rental_offers.offers(pack, request, catalog, found=found)

    def _builtin(self) -> tuple[Pack, ...]:
        """Packs that a reply is compared with: the built-in ones."""
        return tuple(found for name in BUILTIN if (found := self._packs.get(name)) is not None)

    async def _ask(
        self, request: recommendation_pb2.RecommendRequest, pack: Pack
    ) -> tuple[Inputs, Evidence | None, str]:
        """Read the inputs and estimate; return both, with the code of why there is no estimate."""
        try:
            inputs, evidence = await self._estimate(request, pack)
        except EstimatorUnavailableError:
            return normalize(request, pack, Catalog()), None, cautions.ESTIMATOR_UNAVAILABLE
        if evidence is None:
            return inputs, None, _not_estimated(inputs)
        if not any(isinstance(row, Estimate) for row in evidence.rows.values()):
            refusal = refusal_of(evidence)
            if _is_elsewhere(request, refusal):
                return inputs, None, cautions.MODEL_NOT_ESTIMATED
            raise as_error(refusal)
        return inputs, evidence, ""

    async def _estimate(
        self, request: recommendation_pb2.RecommendRequest, pack: Pack
    ) -> tuple[Inputs, Evidence | None]:
        """Read the inputs and estimate with one catalog; no estimate without a model or hardware."""
        for _ in range(CATALOG_TRIES):
            catalog = await self._estimator.catalog()
            inputs = normalize(request, pack, catalog)
            if not inputs.model_known:
                await self._check_hardware(inputs.hardware)
                return inputs, None
            if not inputs.hardware_known:
                return await self._without_hardware(request, inputs), None
            evidence = await self._estimator.evidence(_questions(pack, inputs))
            counted = _counted(inputs, evidence)
            if counted is not None and await self._estimator.catalog() is catalog:
                inputs, evidence = counted, await self._estimator.evidence(_questions(pack, counted))
            # Inputs and estimates must be of the same revision of the catalog.
            if await self._estimator.catalog() is catalog:
                return inputs, evidence
        raise EstimatorUnavailableError("the catalog changes from call to call")

    async def _answer(self, spec: run_spec_pb2.RunSpec) -> Evidence:
        """Estimate a run by LoRA."""
        return await self._estimator.evidence({Method.LORA: estimate_pb2.EstimateRunRequest(spec=spec)})

    async def _check_hardware(self, hardware: hardware_pb2.Hardware) -> None:
        """Refuse an accelerator that the estimator does not know, also without a model."""
        if hardware.WhichOneof("device") != "accelerator":
            return
        spec = run_spec_pb2.RunSpec(
            model=model_pb2.ModelSource(shape=ANY_SHAPE), lora=method_pb2.Lora(), hardware=hardware
        )
        answer = (await self._answer(spec)).rows[Method.LORA, 0]
        if isinstance(answer, Refused) and answer.reason == "ACCELERATOR_NOT_FOUND":
            raise as_error(answer)

    async def _without_hardware(self, request: recommendation_pb2.RecommendRequest, inputs: Inputs) -> Inputs:
        """Count the parameters of a shape or folder, and refuse a model that the estimator does not know."""
        if inputs.model is not None and inputs.model.parameters:
            return inputs
        spec = run_spec_pb2.RunSpec(
            model=request.model, lora=method_pb2.Lora(), hardware=hardware_pb2.Hardware(cpu=hardware_pb2.CpuDevice())
        )
        evidence = await self._answer(spec)
        answer = evidence.rows[Method.LORA, 0]
        if isinstance(answer, Refused):
            if _is_elsewhere(request, answer):
                return inputs
            raise as_error(answer)
        return _counted(inputs, evidence) or inputs


def conclude(
    pack: Pack,
    inputs: Inputs,
    evidence: Evidence | None,
    *,
    missing: str = "",
    others: Iterable[Pack] = (),
    rented: tuple[rental_offers.Offer, ...] = (),
    ways: Answers = NO_ANSWERS,
) -> Recommendation:
    """Conclude from the estimator's answer, without side effects.

    `missing` is the code of why there is no evidence, `others` are packs to compare with, `rented` is what could be
    rented, `ways` are the estimates of what would train.
    """
    if rented and evidence is None:
        inputs = inputs.on_offer()
    situation = Situation(pack, inputs, evidence)
    decision, parameters = situation.decision, parameters_of(inputs, evidence)
    neighbors = counterfactuals.explore(situation)
    broken = tuple(unmet(situation))
    outs = ways_out(pack, inputs, evidence, ways)
    recipe = _recipe(situation, parameters)
    applied = recipes.adaptations(pack, inputs, decision.method)[: decision.fit.adapted] if decision.method else ()
    steps = fit.steps(decision.fit, evidence, applied=applied, overruled_rule_id=decision.verdict.overruled_rule_id)
    revision = _revision(pack, evidence)
    told = cautions.collect(
        situation, broken, missing=missing, parameters=parameters, built=recipe, rented=rented, ways=outs
    )
    return Recommendation(
        situation=situation,
        recipe=recipe,
        estimate=_estimated(evidence, decision),
        fit_steps=tuple(steps),
        methods=assess(situation, rented),
        cautions=told,
        counterfactuals=neighbors.flips,
        gaps=neighbors.gaps,
        confidence=confidence.judge(situation, neighbors, parameters=parameters, unmet=len(broken), cautions=told),
        revision=revision,
        plan_digest=plan_digest(recipe.spec, inputs.profile, revision) if recipe is not None else "",
        others=other_packs.verdicts(others, situation),
        ways_out=outs,
    )


def parameters_of(inputs: Inputs, evidence: Evidence | None) -> int | None:
    """Parameters of the model, by the estimator where it counted them, else by the catalog."""
    if evidence is not None and evidence.parameters:
        return evidence.parameters
    return (inputs.model.parameters or None) if inputs.model is not None else None


def _recipe(situation: Situation, parameters: int | None) -> Recipe | None:
    """Recipe of the verdict."""
    found = situation.decision.fit
    if found.method is None:
        return None
    return recipes.build(situation.pack, situation.inputs, found.method, parameters=parameters, adapted=found.adapted)


def _estimated(evidence: Evidence | None, decision: Decision) -> Estimate | None:
    """Estimate of the verdict's recipe; None where there is none."""
    if evidence is None or decision.method is None:
        return None
    row = evidence.rows.get((decision.method, decision.fit.adapted))
    return row if isinstance(row, Estimate) else None


def _revision(pack: Pack, evidence: Evidence | None) -> evidence_pb2.Revision:
    revision = evidence_pb2.Revision()
    if evidence is not None:
        revision.CopyFrom(evidence.revision)
    revision.pack.CopyFrom(pack.revision)
    return revision


def _is_elsewhere(request: recommendation_pb2.RecommendRequest, refusal: Refused) -> bool:
    """Whether the model is a folder that the estimator does not have: the trainer may."""
    return refusal.reason == "MODEL_NOT_FOUND" and request.model.WhichOneof("source") == "path"


def _not_estimated(inputs: Inputs) -> str:
    """Code of why the estimator was not asked."""
    if not inputs.model_known:
        return cautions.MODEL_UNKNOWN
    return cautions.MEMORY_UNKNOWN if inputs.device.unsupported else cautions.HARDWARE_UNKNOWN


def _counted(inputs: Inputs, evidence: Evidence) -> Inputs | None:
    """Inputs with the parameters of a shape that the estimator counted, which recipes depend on; None where known."""
    model = inputs.model or Model(0, 0)
    if model.parameters or not evidence.parameters:
        return None
    return replace(inputs, model=replace(model, parameters=evidence.parameters))


def _questions(pack: Pack, inputs: Inputs) -> dict[Method, estimate_pb2.EstimateRunRequest]:
    """Build the estimator's requests for every method, with adaptations as fallbacks."""
    rows = recipes.questions(pack, inputs, parameters_of(inputs, None))
    for row in rows.values():
        _as_asked(row, inputs.request)
    return rows


def _as_asked(row: estimate_pb2.EstimateRunRequest, request: recommendation_pb2.RecommendRequest) -> None:
    """Copy to a question what the request says of evaluation, and the estimator's revisions that it pins."""
    if request.HasField("evaluation_profile"):
        row.evaluation_profile.CopyFrom(request.evaluation_profile)
    if request.HasField("pinned"):
        row.pinned.CopyFrom(request.pinned)
        row.pinned.ClearField("pack")
