# SPDX-License-Identifier: Apache-2.0
"""A recommendation from beginning to end: read the request, ask the estimator once, and conclude."""

from collections.abc import Mapping
from dataclasses import replace

from finetree_api.estimator.v1 import estimator_pb2 as est
from finetree_api.recommender.v1 import recommender_pb2 as rec
from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_runtime.errors import NotFound
from finetree_runtime.runspec.wire import delimited, key

from finetree_recommender.conclusion import Recommendation, conclude, parameters_of
from finetree_recommender.estimator.values import (
    NO_CATALOGUE,
    Estimator,
    EstimatorUnavailableError,
    Evidence,
    Model,
    Priced,
    Refused,
)
from finetree_recommender.explain import cautions, rental_offers
from finetree_recommender.method import Method
from finetree_recommender.policy.pack import BUILTIN, DEFAULT_PACK, Pack
from finetree_recommender.recipe import build
from finetree_recommender.request.inputs import Inputs, normalize
from finetree_recommender.request.refusals import as_error, check_estimator_pins, check_lengths, check_pin, refusal_of

ANY_SHAPE = rs.ModelShape(hidden_size=64, layers=1, intermediate_size=64, attention_heads=1, vocab_size=64)
"""A model to ask about hardware with."""
CATALOGUE_TRIES = 3
"""Questions that are asked again because the catalogue changed under them."""


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
        check_lengths(request)
        check_pin(request.pinned.pack, pack, "pinned.pack")
        inputs, evidence, missing = await self._ask(request, pack)
        if evidence is None:
            check_estimator_pins(request.pinned)
        rented = await self._offers(pack, inputs, evidence)
        return conclude(pack, inputs, evidence, missing, self._builtin(), rented=rented)

    async def _offers(self, pack: Pack, inputs: Inputs, evidence: Evidence | None) -> tuple[rental_offers.Offer, ...]:
        """What could be rented, where that helps; none where the estimator does not answer."""
        if not rental_offers.wanted(inputs, evidence):
            return ()
        request, catalogue = inputs.request, inputs.catalogue
        rows = rental_offers.questions(pack, request, catalogue, parameters_of(inputs, evidence))
        try:
            found = await self._estimator.estimates(rows)
        except EstimatorUnavailableError:
            return ()
        return rental_offers.offers(pack, request, catalogue, found)

    def _builtin(self) -> tuple[Pack, ...]:
        """The packs that a reply is compared with: those that come with the service."""
        return tuple(found for name in BUILTIN if (found := self._packs.get(name)) is not None)

    async def _ask(self, request: rec.RecommendRequest, pack: Pack) -> tuple[Inputs, Evidence | None, str]:
        try:
            inputs, evidence = await self._price(request, pack)
        except EstimatorUnavailableError:
            return normalize(request, pack, NO_CATALOGUE), None, cautions.ESTIMATOR_UNAVAILABLE
        if evidence is None:
            return inputs, None, _unpriced(inputs)
        if not any(isinstance(row, Priced) for row in evidence.rows.values()):
            refusal = refusal_of(evidence)
            if refusal.reason == "MODEL_NOT_FOUND" and request.model.WhichOneof("source") == "path":
                return inputs, None, cautions.MODEL_NOT_PRICED
            raise as_error(refusal)
        return inputs, evidence, ""

    async def _price(self, request: rec.RecommendRequest, pack: Pack) -> tuple[Inputs, Evidence | None]:
        """Inputs and evidence of one catalogue; no evidence where there is no model, or no hardware, to price."""
        for _ in range(CATALOGUE_TRIES):
            catalogue = await self._estimator.catalogue()
            inputs = normalize(request, pack, catalogue)
            if not inputs.model_known:
                await self._check_hardware(inputs.hardware)
                return inputs, None
            if not inputs.hardware_known:
                await self._check_model(request, inputs)
                return inputs, None
            evidence = await self._estimator.price(_questions(pack, inputs))
            counted = _counted(inputs, evidence)
            if counted is not None and await self._estimator.catalogue() is catalogue:
                inputs, evidence = counted, await self._estimator.price(_questions(pack, counted))
            # A catalogue that changed under the question would mix two revisions in one answer.
            if await self._estimator.catalogue() is catalogue:
                return inputs, evidence
        raise EstimatorUnavailableError("the catalogue changes from call to call")

    async def _answer(self, spec: rs.RunSpec) -> Priced | Refused:
        """What the estimator says of a run by LoRA."""
        question = est.EstimateRunRequest(spec=spec).SerializeToString()
        return (await self._estimator.price({Method.LORA: question})).rows[Method.LORA, 0]

    async def _check_hardware(self, hardware: rs.Hardware) -> None:
        """Refuse an accelerator that the estimator does not know, also where there is no model to price on it."""
        if hardware.WhichOneof("device") != "accelerator":
            return
        spec = rs.RunSpec(model=rs.ModelSource(shape=ANY_SHAPE), lora=rs.Lora(), hardware=hardware)
        answer = await self._answer(spec)
        if isinstance(answer, Refused) and answer.reason == "ACCELERATOR_NOT_FOUND":
            raise as_error(answer)

    async def _check_model(self, request: rec.RecommendRequest, inputs: Inputs) -> None:
        """Refuse a model that the estimator does not know, also where there is no hardware to price it on."""
        if inputs.model is not None or request.model.WhichOneof("source") not in ("name", "hub"):
            return
        spec = rs.RunSpec(model=request.model, lora=rs.Lora(), hardware=rs.Hardware(cpu=rs.CpuDevice()))
        answer = await self._answer(spec)
        if isinstance(answer, Refused) and answer.reason == "MODEL_NOT_FOUND":
            raise as_error(answer)


def _unpriced(inputs: Inputs) -> str:
    """Code of why nothing was asked of the estimator."""
    if not inputs.model_known:
        return cautions.MODEL_UNKNOWN
    return cautions.MEMORY_UNKNOWN if inputs.device.unsupported else cautions.HARDWARE_UNKNOWN


def _counted(inputs: Inputs, evidence: Evidence) -> Inputs | None:
    """The inputs with the parameters that the estimator counted of a shape: recipes go by them; None where known."""
    model = inputs.model or Model(0, 0)
    if model.parameters or not evidence.parameters:
        return None
    return replace(inputs, model=replace(model, parameters=evidence.parameters), kept={})


def _questions(pack: Pack, inputs: Inputs) -> dict[Method, bytes]:
    """Every method's recipe, with its adaptations to be tried where it does not fit."""
    request = inputs.request
    beside = [_VIEW]
    if inputs.profile is not None:
        beside.append(delimited(_PROFILE, inputs.profile.SerializeToString()))
    if request.HasField("evaluation_profile"):
        beside.append(delimited(_EVALUATION, request.evaluation_profile.SerializeToString()))
    if request.HasField("pinned"):
        pinned = ev.Revision()
        pinned.CopyFrom(request.pinned)
        pinned.ClearField("pack")
        beside.append(delimited(_PINNED, pinned.SerializeToString()))
    return build.questions(pack, inputs, parameters_of(inputs, None), b"".join(beside))


_VIEW = est.EstimateRunRequest(view=est.ESTIMATE_VIEW_SUMMARY).SerializeToString()
_PROFILE, _EVALUATION, _PINNED = (
    key(est.EstimateRunRequest, name) for name in ("dataset_profile", "evaluation_profile", "pinned")
)
