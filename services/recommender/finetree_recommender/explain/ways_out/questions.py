# SPDX-License-Identifier: Apache-2.0
"""What the estimator is asked where nothing trains as asked: truncated rows, other hardware, smaller models.

All of it goes in one call, which only such a request makes.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import hardware_pb2

from finetree_recommender.decision.limits import violations
from finetree_recommender.decision.stages import choose
from finetree_recommender.estimator.values import Evidence, FitState, Model
from finetree_recommender.explain.rental_offers import elsewhere
from finetree_recommender.method import Method
from finetree_recommender.recipe.build import adaptations, adapted_draft, cut_questions, lossless, question
from finetree_recommender.recipe.draft import sequence_length
from finetree_recommender.request.inputs import Inputs, normalize
from finetree_recommender.rule_pack.answers import UNKNOWN
from finetree_recommender.rule_pack.pack import Pack

SMALLER = 0.8
"""Largest size of a smaller model, as a share of the one that was asked for: names round, and a 7B model has 6.7 to 7.6
billion parameters."""
ROOM = 1.5
"""Times the size that the memory allows by proportion, up to which a smaller model is tried: not all memory grows with
the size."""
SURE = (0.6, 0.2)
"""Times that size up to which the largest model is tried too: where the memory is far too small, none of the nearest
fits."""
MOST_MODELS = 3
"""Models that are tried beside those."""
_SIZE = re.compile(r"-\d+(\.\d+)?[bm](?=-|$)")


class Kind(StrEnum):
    """What is changed; the values are the contract's names."""

    ANOTHER_GPU = "ANOTHER_GPU"
    SEVERAL_GPUS = "SEVERAL_GPUS"
    SMALLER_MODEL = "SMALLER_MODEL"
    SHORTER_ROWS = "SHORTER_ROWS"
    OTHER_TOOL = "OTHER_TOOL"


@dataclass(frozen=True, slots=True)
class Asked:
    """A question to the estimator: what is changed, and the method."""

    kind: Kind
    method: Method
    model: str = ""
    """Catalog name of a smaller model."""


Questions = Mapping[Asked, estimate_pb2.EstimateRunRequest]
Answers = Mapping[Asked, estimate_pb2.Estimate]
"""Answers of the estimator; what it refused is left out."""
NO_ANSWERS: Answers = MappingProxyType({})


def wanted(evidence: Evidence | None) -> bool:
    """Whether no method is shown to train, and at least one is shown not to fit."""
    states = set(evidence.states.values()) if evidence is not None else set[FitState]()
    return FitState.DOES_NOT_FIT in states and not any(state.trains for state in states)


def ways_out_questions(pack: Pack, inputs: Inputs, evidence: Evidence) -> Questions:
    """Build the questions: for the method that the rules prefer on any hardware, and for the smallest, QLoRA."""
    parameters = evidence.parameters or (inputs.model.parameters if inputs.model is not None else None)
    found = {
        Asked(Kind.SHORTER_ROWS, method): row for method, row in cut_questions(pack, inputs, parameters or None).items()
    }
    for method in preferred(pack, inputs):
        found[Asked(Kind.ANOTHER_GPU, method)] = _anywhere(pack, inputs, method, parameters=parameters)
        for model in _smaller_models(inputs, evidence, tokens=sequence_length(pack, inputs)[0]):
            found[Asked(Kind.SMALLER_MODEL, method, model.name)] = _of_model(pack, inputs, method, model=model)
        if inputs.hardware.count > 1 and inputs.hardware.sharding != hardware_pb2.SHARDING_FULL:
            found[Asked(Kind.SEVERAL_GPUS, method)] = _sharded(pack, inputs, method, parameters=parameters)
    return found


def preferred(pack: Pack, inputs: Inputs) -> tuple[Method, ...]:
    """The method that the rules prefer where hardware sets no limit, and QLoRA, which needs the least memory.

    Where servers are named, methods of which all load the result come first.
    """
    choice, limits = choose(pack, inputs.answers.changed("memory", UNKNOWN)), inputs.limits.elsewhere(estimate=True)
    first = choice.method or Method.LORA
    if not limits.serving:
        return tuple(dict.fromkeys((first, Method.QLORA)))
    broken = violations(pack, limits, None)
    order = (first, *choice.tried(estimate=True))
    chosen = next((method for method in order if not broken[method]), first)
    return tuple(method for method in dict.fromkeys((chosen, Method.QLORA)) if method is chosen or not broken[method])


def _anywhere(pack: Pack, inputs: Inputs, method: Method, *, parameters: int | None) -> estimate_pb2.EstimateRunRequest:
    """Ask for the hardware on which a method fits at its smallest, without loss."""
    there = elsewhere(pack, inputs.request, inputs.catalog)
    rules = lossless(adaptations(pack, there, method))
    return estimate_pb2.EstimateRunRequest(
        view=estimate_pb2.ESTIMATE_VIEW_SUMMARY,
        searches=[estimate_pb2.ESTIMATE_SEARCH_SMALLEST_HARDWARE],
        spec=adapted_draft(pack, there, method, parameters=parameters, rules=rules),
        dataset_profile=inputs.profile,
    )


def _of_model(pack: Pack, inputs: Inputs, method: Method, *, model: Model) -> estimate_pb2.EstimateRunRequest:
    """Ask for a smaller model on the hardware at hand."""
    changed = recommendation_pb2.RecommendRequest()
    changed.CopyFrom(inputs.request)
    changed.model.Clear()
    changed.model.name = model.name
    return question(pack, normalize(changed, pack, inputs.catalog), method, parameters=model.parameters)


def _sharded(pack: Pack, inputs: Inputs, method: Method, *, parameters: int | None) -> estimate_pb2.EstimateRunRequest:
    """Ask for the devices at hand, with the model sharded across them."""
    hardware = hardware_pb2.Hardware()
    hardware.CopyFrom(inputs.hardware)
    hardware.sharding = hardware_pb2.SHARDING_FULL
    together = replace(inputs, device=replace(inputs.device, hardware=hardware))
    return question(pack, together, method, parameters=parameters)


def _smaller_models(inputs: Inputs, evidence: Evidence, *, tokens: int) -> tuple[Model, ...]:
    """Catalog models that may fit: those of the same series first, then of the same maker, then the largest first.

    None takes fewer than the `tokens` of a row of the recipe: its rows would be truncated.
    """
    ours, best = inputs.model, evidence.best[Method.QLORA].estimate
    if ours is None or not ours.name or best is None or best.device_bytes.expected <= 0:
        return ()
    proportion = best.usable_bytes / best.device_bytes.expected
    series, makers = _SIZE.split(ours.name)[0], Counter(maker(item.name) for item in inputs.catalog.series)

    def rank(item: Model) -> tuple[float, bool, int, str]:
        # Of another maker, one with many models: the usual ones.
        foreign = 0 if maker(item.name) == maker(ours.name) else 1 / makers[maker(item.name)]
        return foreign, _SIZE.split(item.name)[0] != series, -item.parameters, item.name

    smaller = (item for item in inputs.catalog.series if item.parameters <= SMALLER * ours.parameters)
    found = sorted((item for item in smaller if not 0 < item.longest < tokens), key=rank)
    alike = [item for item in found if maker(item.name) == maker(ours.name)]

    def up_to(times: float, models: list[Model]) -> list[Model]:
        most = times * proportion * ours.parameters
        return list(_without_variants([item for item in models if item.parameters <= most]))

    near = up_to(ROOM, alike)[:MOST_MODELS]
    sure = [item for times in SURE for item in up_to(times, alike if up_to(SURE[0], alike) else found)[:1]]
    return tuple(dict.fromkeys((*near, *sure)))


def _without_variants(found: list[Model]) -> Iterator[Model]:
    """Models without those that only differ from one before in how they were trained on."""
    seen: set[int] = set()
    for item in found:
        if item.parameters not in seen:
            seen.add(item.parameters)
            yield item


def maker(name: str) -> str:
    """First word of a model's name, without its version: "qwen" of qwen2.5-7b."""
    return re.split(r"[\d.-]", name)[0]
