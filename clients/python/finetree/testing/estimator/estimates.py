# SPDX-License-Identifier: Apache-2.0
"""Invented estimates that keep what estimates promise: parts add up, ends enclose, what is unknown is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from finetree_api.estimator.v1 import catalog_pb2, estimate_pb2
from finetree_api.types.v1 import check_pb2, estimate_summary_pb2, evidence_pb2, run_spec_pb2, training_data_pb2
from google.type import money_pb2

from finetree.money import to_float
from finetree.testing import spec as specs
from finetree.testing.catalog import ACCELERATORS, PRICES, PROVENANCE, REVISION, usable_bytes
from finetree.testing.requests import invalid, not_promised

FITS, DOES_NOT_FIT = estimate_summary_pb2.FIT_VERDICT_FITS, estimate_summary_pb2.FIT_VERDICT_DOES_NOT_FIT
TIGHT, UNKNOWN = estimate_summary_pb2.FIT_VERDICT_TIGHT, estimate_summary_pb2.FIT_VERDICT_UNSPECIFIED
PREFERRED = (FITS, TIGHT, UNKNOWN, DOES_NOT_FIT)
"""Which of several tried runs is answered: the first by this order."""
BYTES_PER_PARAMETER = {"full": 16.0, "lora": 2.0, "qlora": 0.75, "prefix": 2.0, "adapter": 2.0}
_CPU_FLOPS, _DEFAULT_FLOPS, _USED = 2e11, 1e14, 0.4
_TOKENS_PER_ROW = 200
_WATTS_CPU = 65.0


@dataclass(frozen=True, slots=True)
class _Tariff:
    """What an hour costs: nothing is known of it where `hourly` is None."""

    currency: str = ""
    hourly: float | None = None
    price: catalog_pb2.Price | None = None


def interval(expected: float) -> evidence_pb2.Interval:
    """Make an interval of ten percent around a number."""
    return evidence_pb2.Interval(
        low=expected * 0.9, expected=expected, high=expected * 1.1, coverage=0.9, provenance=[PROVENANCE]
    )


def estimate_of(
    request: estimate_pb2.EstimateRunRequest,
    model: catalog_pb2.Model,
    *,
    spec: run_spec_pb2.RunSpec,
    where: str = "spec",
) -> estimate_pb2.Estimate:
    """Estimate a run; `where` is the field of its spec, for errors.

    Raises:
        FinetreeError: what EstimateRun documents.
    """
    profile = profile_of(request, spec)
    positions = model.shape.max_position_embeddings
    resolved, _ = specs.resolve(spec, profile, positions=positions)
    _require_possible(resolved, model, where)
    _require_known_searches(request)
    usable = usable_bytes(resolved.hardware, f"{where}.hardware")
    tariff = _tariff(resolved, where)
    size = round(BYTES_PER_PARAMETER[resolved.WhichOneof("method") or "lora"] * model.parameters)
    answer = estimate_pb2.Estimate(
        resolved_spec=resolved,
        memory=_memory(size, usable),
        fit=_fit(size, usable),
        total_parameters=model.parameters,
        trainable_parameters=_trainable(resolved, model),
        revision=REVISION,
        plan_digest=specs.make_plan(resolved, profile, REVISION).digest,
        confidence=estimate_pb2.EstimateConfidence(
            memory=evidence_pb2.CONFIDENCE_LEVEL_LOW,
            time=evidence_pb2.CONFIDENCE_LEVEL_LOW,
            reasons=[check_pb2.Remark(code="FAKE", message="no measured run is like invented numbers")],
        ),
        remarks=[check_pb2.Remark(code="FAKE", message="These numbers are invented.")],
    )
    if profile is None:
        text = "the number of rows is unknown, so that time and cost are: give dataset.profile.examples"
        answer.remarks.add(code="EXAMPLES_UNKNOWN", message=text, field_path="dataset.profile.examples")
        return answer
    answer.optimizer_steps = specs.optimizer_steps(resolved, profile.examples)
    if answer.fit.verdict != DOES_NOT_FIT:
        _add_time(answer, request, profile)
        _add_cost(answer, request, tariff)
    if request.view == estimate_pb2.ESTIMATE_VIEW_FULL and answer.fit.verdict == DOES_NOT_FIT:
        raise not_promised("searches no remedies for a run that does not fit")
    if request.view == estimate_pb2.ESTIMATE_VIEW_FULL or estimate_pb2.ESTIMATE_SEARCH_OFFERS in request.searches:
        answer.offers.extend(_offers(answer))
    return answer


def in_view(answer: estimate_pb2.Estimate, view: estimate_pb2.EstimateView.ValueType) -> estimate_pb2.Estimate:
    """Leave out what a view does."""
    if view == estimate_pb2.ESTIMATE_VIEW_SUMMARY:
        for name in ("resolved_spec", "confidence", "remarks", "plan_digest"):
            answer.ClearField(name)
        del answer.memory.components[:], answer.time.phases[:]
    return answer


def profile_of(
    request: estimate_pb2.EstimateRunRequest, spec: run_spec_pb2.RunSpec
) -> training_data_pb2.DatasetProfile | None:
    """What a request says of the rows, beside the spec or in it."""
    if request.HasField("dataset_profile"):
        return request.dataset_profile
    return spec.dataset.profile if spec.dataset.WhichOneof("source") == "profile" else None


def _require_possible(spec: run_spec_pb2.RunSpec, model: catalog_pb2.Model, where: str) -> None:
    if spec.WhichOneof("method") is None:
        raise invalid(f"{where}.method", "exactly one field is required in oneof")
    if spec.hardware.WhichOneof("device") is None:
        raise invalid(f"{where}.hardware", "name an accelerator or a CPU")
    if spec.full.frozen_layers >= (model.shape.layers or 1 << 30):
        raise invalid(f"{where}.full.frozen_layers", f"leaves nothing of {model.shape.layers} layers to train")
    for module in (*spec.lora.target_modules, *spec.qlora.lora.target_modules):
        if not module.endswith("_proj"):
            path = "lora" if spec.HasField("lora") else "qlora.lora"
            raise invalid(f"{where}.{path}.target_modules", f"the model has no module {module!r}")
    finetree = spec.program.program == 1
    for field, _ in spec.program.ListFields() if finetree else ():
        others = {"sharding_library": (2,), "allocator_cache": (3,), "experts": (1,), "layer_kernels": (1,)}
        value = getattr(spec.program, field.name)
        if (field.name == "compile" and value) or (field.name in others and value not in others[field.name]):
            raise invalid(f"{where}.program.{field.name}", "is of other programs; name program.program")
    problem = specs.conflict(spec, model.shape.max_position_embeddings)
    if problem is not None:
        raise invalid(f"{where}.{problem.field}", problem.text, problem.reason)


def _require_known_searches(request: estimate_pb2.EstimateRunRequest) -> None:
    for search in request.searches:
        if search != estimate_pb2.ESTIMATE_SEARCH_OFFERS:
            name = estimate_pb2.EstimateSearch.Name(search).removeprefix("ESTIMATE_SEARCH_")
            raise not_promised(f"searches no {name.lower().replace('_', ' ')}")


def _memory(size: int, usable: int) -> estimate_pb2.MemoryEstimate:
    parts = {
        estimate_pb2.MEMORY_COMPONENT_KIND_BASE_WEIGHTS: size * 3 // 4,
        estimate_pb2.MEMORY_COMPONENT_KIND_ACTIVATIONS: size - size * 3 // 4,
    }
    components = [
        estimate_pb2.MemoryComponent(
            kind=kind,
            label=estimate_pb2.MemoryComponentKind.Name(kind).removeprefix("MEMORY_COMPONENT_KIND_").lower(),
            bytes=interval(part),
        )
        for kind, part in parts.items()
    ]
    whole = interval(size)
    return estimate_pb2.MemoryEstimate(
        components=components,
        allocated_bytes=whole,
        reserved_bytes=whole,
        device_bytes=whole,
        usable_device_bytes=usable,
        host_bytes=interval(size + 10**9),
    )


def _fit(size: int, usable: int) -> estimate_pb2.Fit:
    if not usable:
        return estimate_pb2.Fit(summary="the device's memory is unknown: give its memory")
    fits = size * 1.1 <= usable
    tight = not fits and size * 0.9 <= usable
    verdict = FITS if fits else TIGHT if tight else DOES_NOT_FIT
    word = "fits" if fits else "is tight" if tight else "does not fit"
    return estimate_pb2.Fit(
        verdict=verdict,
        headroom_bytes=usable - size,
        summary=f"{word}: {size:,} bytes of {usable:,}",
        probability=0.99 if fits else 0.5 if tight else 0.01,
    )


def _trainable(spec: run_spec_pb2.RunSpec, model: catalog_pb2.Model) -> int:
    shape = model.shape
    layers, hidden = shape.layers or 1, shape.hidden_size or 64
    match spec.WhichOneof("method"):
        case "full":
            return model.parameters
        case "prefix":
            count = 2 * spec.prefix.virtual_tokens * layers * hidden
        case "adapter":
            count = 2 * spec.adapter.bottleneck_size * layers * hidden
        case _:
            rank = (spec.qlora.lora if spec.HasField("qlora") else spec.lora).rank
            count = 14 * rank * layers * hidden
    return min(count, model.parameters)


def _flops(spec: run_spec_pb2.RunSpec, request: estimate_pb2.EstimateRunRequest) -> float:
    if spec.hardware.HasField("cpu"):
        return request.matrix_rates.bf16_flops_per_second or _CPU_FLOPS
    card = ACCELERATORS.get(spec.hardware.accelerator.lower())
    return card.dense_flops_per_second if card is not None else _DEFAULT_FLOPS


def _add_time(
    answer: estimate_pb2.Estimate,
    request: estimate_pb2.EstimateRunRequest,
    profile: training_data_pb2.DatasetProfile,
) -> None:
    tokens = profile.total_tokens or sum(each.upper_bound * each.count for each in profile.token_lengths)
    per_row = (tokens or profile.examples * _TOKENS_PER_ROW) / profile.examples
    spec = answer.resolved_spec
    per_step = per_row * spec.training.effective_batch_size
    step = 6 * answer.total_parameters * per_step / (_flops(spec, request) * _USED)
    phases: Mapping[estimate_pb2.TimePhaseKind.ValueType, float] = {
        estimate_pb2.TIME_PHASE_KIND_LOAD: 2 * answer.total_parameters / 1e9,
        estimate_pb2.TIME_PHASE_KIND_TRAIN: step * answer.optimizer_steps,
        estimate_pb2.TIME_PHASE_KIND_SAVE: 1.0,
    }
    answer.processed_tokens = round(per_step * answer.optimizer_steps)
    answer.time.CopyFrom(
        estimate_pb2.TimeEstimate(
            phases=[estimate_pb2.TimePhase(kind=kind, seconds=interval(part)) for kind, part in phases.items()],
            total_seconds=interval(sum(phases.values())),
            tokens_per_second=interval(per_step / step),
            step_seconds=interval(step),
        )
    )


def _tariff(spec: run_spec_pb2.RunSpec, where: str) -> _Tariff:
    owned, rented = spec.ownership.owned, spec.ownership.rented
    if spec.ownership.WhichOneof("kind") == "owned":
        return _Tariff(owned.price_per_kwh.currency_code or "USD", to_float(owned.price_per_kwh) * _watts(spec) / 1000)
    if rented.price_id:
        found = next((each for each in PRICES if each.price_id == rented.price_id), None)
        if found is None:
            from finetree.testing.catalog import no_such

            no_such(
                "price",
                rented.price_id,
                [each.price_id for each in PRICES],
                reason="PRICE_NOT_FOUND",
                where=f"{where}.ownership.rented.price_id",
            )
        return _Tariff("USD", to_float(found.hourly_price), found)
    mine = [each for each in PRICES if each.accelerator == spec.hardware.accelerator.lower()]
    on_demand = next((each for each in mine if each.term == catalog_pb2.PRICE_TERM_ON_DEMAND), None)
    return _Tariff("USD", to_float(on_demand.hourly_price), on_demand) if on_demand is not None else _Tariff()


def _watts(spec: run_spec_pb2.RunSpec) -> float:
    if spec.ownership.owned.watts:
        return float(spec.ownership.owned.watts)
    card = ACCELERATORS.get(spec.hardware.accelerator.lower())
    return card.watts if card is not None else _WATTS_CPU


def _add_cost(answer: estimate_pb2.Estimate, request: estimate_pb2.EstimateRunRequest, tariff: _Tariff) -> None:
    hours = answer.time.total_seconds.expected / 3600
    energy = hours * _watts(answer.resolved_spec) / 1000
    cost = answer.cost
    cost.energy_kwh.CopyFrom(interval(energy))
    cost.carbon_kg.CopyFrom(interval(energy * (request.carbon_kg_per_kwh or 0.4)))
    if tariff.hourly is None:
        text = "there is no price: state ownership.owned, or name an accelerator that is rented"
        answer.remarks.add(code="PRICE_UNKNOWN", message=text, field_path="ownership")
        return
    cost.total.CopyFrom(_money(hours * tariff.hourly, tariff.currency))
    if request.runs_per_month:
        cost.monthly.CopyFrom(_money(hours * tariff.hourly * request.runs_per_month, tariff.currency))
    price = tariff.price
    if price is not None:
        hourly: money_pb2.Money = price.hourly_price
        cost.hourly_price.CopyFrom(hourly)
        cost.price_id, cost.provider, cost.region = price.price_id, price.provider, price.region
        cost.term, cost.price_date = price.term, price.provenance.date


def _money(amount: float, currency: str) -> evidence_pb2.MoneyInterval:
    return evidence_pb2.MoneyInterval(amount=interval(amount), currency_code=currency)


def _offers(answer: estimate_pb2.Estimate) -> list[estimate_pb2.Offer]:
    """Quotes of cards where the run fits, the cheapest first."""
    size = answer.memory.device_bytes.high
    if not answer.HasField("time"):
        return []
    hours = answer.time.total_seconds.expected / 3600
    found = [
        estimate_pb2.Offer(
            price=price,
            count=1,
            hours=interval(hours),
            cost=_money(hours * to_float(price.hourly_price), "USD"),
            verdict=FITS,
        )
        for price in PRICES
        if ACCELERATORS[price.accelerator].usable_bytes >= size
    ]
    return sorted(found, key=lambda offer: offer.cost.amount.expected)[:8]
