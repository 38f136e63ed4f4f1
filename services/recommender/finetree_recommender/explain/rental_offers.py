# SPDX-License-Identifier: Apache-2.0
"""GPUs to rent where no hardware at hand trains the model: the estimator's offers for each method."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from finetree_api.estimator.v1 import catalog_pb2, estimate_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import evidence_pb2, hardware_pb2
from finetree_runtime.money import to_float
from google.type import money_pb2

from finetree_recommender.decision.limits import USD
from finetree_recommender.decision.prior_figures import SECONDS
from finetree_recommender.estimator.values import Catalog, Evidence
from finetree_recommender.formatting import duration
from finetree_recommender.method import Method
from finetree_recommender.recipe.build import adaptations, adapted_draft, lossless
from finetree_recommender.request.inputs import Inputs, normalize
from finetree_recommender.request.limits import Limits
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.trace import Caution

RENT = "RENT"
"""Code of the advice; there is one caution for each method that is worth it."""
ANY_GPU_GB = 80.0
"""Memory of the GPU that the estimator is asked about; its answer lists offers of other GPUs in any case."""
MOST_TOLD = 3
CHEAPER = 0.9
"""Share of another offer's cost up to which an offer counts as cheaper."""
NO_LIMITS = Limits()
_RULE = "rent.offer"


@dataclass(frozen=True, slots=True)
class Offer:
    """Cheapest offer on demand on which a method's recipe fits."""

    method: Method
    accelerator: str
    provider: str
    hourly_price: money_pb2.Money
    """Price of one device."""
    hours: evidence_pb2.Interval | None
    """None where the number of rows is unknown, as is then the cost."""
    cost: evidence_pb2.MoneyInterval | None
    savings: tuple[str, ...]
    """What makes the recipe small, in words."""


def wanted(inputs: Inputs, evidence: Evidence | None) -> bool:
    """Whether offers would help: hardware can be rented, and none at hand is supported and shown to train the model."""
    if not inputs.request.can_rent or not inputs.model_known:
        return False
    if not inputs.hardware_known or inputs.on_cpu or inputs.device.unsupported:
        return True
    return evidence is not None and not any(state.trains for state in evidence.states.values())


def questions(
    pack: Pack, request: recommendation_pb2.RecommendRequest, catalog: Catalog, *, parameters: int | None
) -> dict[Method, estimate_pb2.EstimateRunRequest]:
    """Ask for each method's recipe at its smallest without loss, on no GPU in particular."""
    inputs = elsewhere(pack, request, catalog)
    evaluation = request.evaluation_profile if request.HasField("evaluation_profile") else None
    rows = {}
    for method in Method:
        rules = lossless(adaptations(pack, inputs, method))
        rows[method] = estimate_pb2.EstimateRunRequest(
            view=estimate_pb2.ESTIMATE_VIEW_SUMMARY,
            searches=[estimate_pb2.ESTIMATE_SEARCH_OFFERS],
            spec=adapted_draft(pack, inputs, method, parameters=parameters, rules=rules),
            dataset_profile=inputs.profile,
            evaluation_profile=evaluation,
            matrix_rates=inputs.matrix_rates,
        )
    return rows


def offers(
    pack: Pack,
    request: recommendation_pb2.RecommendRequest,
    catalog: Catalog,
    *,
    found: Mapping[Method, estimate_pb2.Estimate],
) -> tuple[Offer, ...]:
    """Find for each method the cheapest offer on demand; methods without one are left out."""
    inputs = elsewhere(pack, request, catalog)
    cheapest = ((method, next(_steady(answer, catalog), None)) for method, answer in found.items())
    return tuple(
        _offer(method, offer, _savings(pack, inputs, method)) for method, offer in cheapest if offer is not None
    )


def advice(
    pack: Pack, preferred: Method | None, found: tuple[Offer, ...], *, limits: Limits = NO_LIMITS
) -> Iterator[Caution]:
    """The offer for the method that the rules prefer, then those of higher quality or lower cost.

    Where the rules prefer none, or there is no offer for it, the method of the highest quality comes first; offers that
    keep the `limits` of a run come before those that do not.
    """

    def rank(offer: Offer) -> tuple[bool, bool, float, float]:
        over = bool(_over(offer, limits))
        # Of offers over a limit the cheapest comes first.
        quality = 0.0 if over else -_grade(pack, offer.method)
        return over, offer.method is not preferred, quality, _cost(offer)

    order = sorted(found, key=rank)
    told: list[Offer] = []
    for offer in order:
        better = all(_grade(pack, offer.method) > _grade(pack, item.method) for item in told)
        if not told or better or all(_cost(offer) <= CHEAPER * _cost(item) for item in told):
            told.append(offer)
    for offer in told[:MOST_TOLD]:
        yield Caution(RENT, _words(offer, limits), _RULE, offer.method, rented=offer.accelerator)


def _over(offer: Offer, limits: Limits) -> str:
    """Limits of a run that an offer exceeds, in words; empty where it keeps them."""
    parts = []
    most, longest = limits.run_usd, limits.max_seconds
    cost = offer.cost if offer.cost is not None and offer.cost.currency_code == USD else None
    if most is not None and cost is not None and cost.amount.expected > most:
        parts.append(f"over the budget of {most:.2f} USD")
    if longest is not None and offer.hours is not None and offer.hours.expected * SECONDS > longest:
        parts.append(f"over the time limit of {duration(longest)}")
    return " and ".join(parts)


def elsewhere(pack: Pack, request: recommendation_pb2.RecommendRequest, catalog: Catalog) -> Inputs:
    """The request, on a rented GPU of no particular kind."""
    moved = recommendation_pb2.RecommendRequest()
    moved.CopyFrom(request)
    moved.ClearField("ownership")
    unknown = hardware_pb2.UnknownAccelerator(marketed_memory_gb=ANY_GPU_GB)
    moved.hardware.CopyFrom(hardware_pb2.Hardware(unknown_accelerator=unknown))
    return normalize(moved, pack, catalog)


def _savings(pack: Pack, inputs: Inputs, method: Method) -> tuple[str, ...]:
    """The method's adaptations, in the pack's order, up to those that lose something of the run."""
    return tuple(rule.message for rule in lossless(adaptations(pack, inputs, method)))


def _steady(answer: estimate_pb2.Estimate, catalog: Catalog) -> Iterator[estimate_pb2.Offer]:
    """Offers on demand, the cheapest run first, of GPUs that compute in the recipe's bfloat16."""
    for offer in answer.offers:
        entry = catalog.accelerators.get(offer.price.accelerator.casefold())
        if offer.price.term == catalog_pb2.PRICE_TERM_ON_DEMAND and entry is not None and entry.native_bf16:
            yield offer


def _offer(method: Method, offer: estimate_pb2.Offer, savings: tuple[str, ...]) -> Offer:
    price = offer.price
    return Offer(
        method=method,
        accelerator=price.accelerator,
        provider=price.provider,
        hourly_price=price.hourly_price,
        hours=offer.hours if offer.hours.expected > 0 else None,
        cost=offer.cost if offer.cost.amount.expected > 0 else None,
        savings=savings,
    )


def _grade(pack: Pack, method: Method) -> float:
    return pack.card(method).quality_percent.expected


def _cost(offer: Offer) -> float:
    """Cost by which offers are sorted: that of the run or, where it is unknown, of an hour."""
    return offer.cost.amount.expected if offer.cost is not None else to_float(offer.hourly_price)


def _words(offer: Offer, limits: Limits) -> str:
    price = f"{to_float(offer.hourly_price):.2f} {offer.hourly_price.currency_code} an hour on demand"
    text = f"{offer.method} on a rented {offer.accelerator} ({offer.provider}, {price})"
    if offer.hours is not None and offer.cost is not None:
        cost = f"{offer.cost.amount.expected:.2f} {offer.cost.currency_code}"
        text += f": about {duration(offer.hours.expected * SECONDS)} and {cost} a run"
    if over := _over(offer, limits):
        text += f", {over}"
    if offer.savings:
        text += f"; to fit: {', '.join(offer.savings)}"
    return f"{text}; ask again with `hardware.accelerator` {offer.accelerator}"
