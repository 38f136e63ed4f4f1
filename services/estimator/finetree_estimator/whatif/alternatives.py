# SPDX-License-Identifier: Apache-2.0
"""Changes to a run that might keep its limits, the least harmful first. Whether they do, the gate tries out."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_api.types.v1 import run_spec_pb2 as rs

from finetree_estimator.catalog.accelerators import accelerators
from finetree_estimator.evidence.calibration import EMPTY, Calibration, correction_for
from finetree_estimator.messages.estimate import remedy_message
from finetree_estimator.spec.parse import parse_request
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.whatif import remedies
from finetree_estimator.whatif.changes import apply_patch

Estimator = Callable[[pb.EstimateRunRequest], pb.Estimate]
"""The answer to a valid request; raises DomainError."""

MOST_DEVICES = 8
"""Devices up to which more of them are proposed: those of one machine."""
FASTEST = 4
"""Accelerators that are tried for their speed alone."""


def of(
    policy: pb.PlanPolicy,
    run: pb.EstimateRunRequest,
    answer: pb.Estimate,
    estimate: Estimator,
    knowledge: Knowledge,
    *,
    calibration: Calibration = EMPTY,
) -> Iterator[pb.Remedy]:
    """Changes to what the request says, as patches with one line for people."""
    asked = pb.EstimateRunRequest()
    asked.CopyFrom(run)
    asked.view = pb.ESTIMATE_VIEW_FULL
    found = estimate(asked)
    free = movable(run.spec)
    if _too_large(policy, answer):
        yield from _lighter(policy, asked, found, knowledge, calibration)
        yield from (_on(option, run.spec) for option in found.smallest_hardware if free)
    if free:
        yield from _offered(run.spec, found, knowledge)
        yield from _faster(run.spec, found, knowledge)
    yield from shorter(policy, answer)


def applied(run: pb.EstimateRunRequest, remedy: pb.Remedy) -> pb.EstimateRunRequest:
    """The request with a remedy's patches made to its spec, as a user would make them."""
    changed = pb.EstimateRunRequest()
    changed.CopyFrom(run)
    for patch in remedy.patches:
        apply_patch(changed.spec, patch.field_path, patch.json_value)
    return changed


def movable(spec: rs.RunSpec) -> bool:
    """Whether other hardware is worth a word: not to whoever owns some, nor in place of a CPU."""
    return bool(spec.hardware.accelerator) and not spec.ownership.HasField("owned")


def together(one: pb.Remedy, other: pb.Remedy) -> pb.Remedy:
    """Both changes."""
    return pb.Remedy(patches=(*one.patches, *other.patches), summary=f"{one.summary}, {other.summary}")


def _too_large(policy: pb.PlanPolicy, answer: pb.Estimate) -> bool:
    peak, usable = answer.memory.device_bytes.high, answer.memory.usable_device_bytes
    limited = policy.HasField("max_device_bytes") and peak > policy.max_device_bytes
    return limited or (policy.must_fit and 0 < usable < peak)


def _lighter(
    policy: pb.PlanPolicy,
    asked: pb.EstimateRunRequest,
    found: pb.Estimate,
    knowledge: Knowledge,
    calibration: Calibration,
) -> Iterator[pb.Remedy]:
    """What the search for a run that fits, or stays below the policy's limit, finds."""
    items: Sequence[pb.Remedy] = found.remedies
    correction = correction_for(asked, asked.spec, calibration)
    if policy.HasField("max_device_bytes"):
        lighter = remedies.search(
            asked, parse_request(asked, knowledge), knowledge, correction, limit_bytes=policy.max_device_bytes
        )
        items = [remedy_message(item) for item in lighter]
    if (
        not items
        and (least := remedies.furthest(asked, parse_request(asked, knowledge), knowledge, correction)) is not None
    ):
        items = [remedy_message(least)]  # it will not do either, but says how far the limit is
    yield from (pb.Remedy(patches=item.patches, summary=_summary(item)) for item in items)


def _said(parts: Iterable[str]) -> str:
    """What patches say, each thing once: several patches make one change."""
    return ", ".join(dict.fromkeys(parts))


def _summary(remedy: pb.Remedy) -> str:
    return _said(patch.summary or patch.field_path for patch in remedy.patches)


def _on(option: pb.HardwareOption, spec: rs.RunSpec) -> pb.Remedy:
    patches = _rented_on(spec, option.accelerator)
    if option.count != max(1, spec.hardware.count):
        patches.append(
            _patch("hardware.count", option.count, "1 device" if option.count == 1 else f"{option.count} devices")
        )
    if spec.hardware.nodes > 1:
        patches.append(_patch("hardware.nodes", 1, "in one machine"))
    if option.count > 1 and option.sharding:
        name = rs.Sharding.Name(option.sharding)
        patches.append(_patch("hardware.sharding", name, f"{name.removeprefix('SHARDING_').lower()} sharding"))
    return pb.Remedy(patches=patches, summary=_said(patch.summary for patch in patches if patch.summary))


def _offered(spec: rs.RunSpec, found: pb.Estimate, knowledge: Knowledge) -> Iterator[pb.Remedy]:
    """The cheapest offer of each accelerator on which the run fits; spot offers, which may be taken away, come last."""
    seen: set[str] = set()
    for offer in sorted(found.offers, key=lambda item: item.price.term == pb.PRICE_TERM_SPOT):
        price = offer.price
        if price.accelerator in seen:
            continue
        seen.add(price.accelerator)
        usual = knowledge.prices.cheapest(price.accelerator, offer.count)
        chosen = "" if usual is not None and usual.price_id == price.price_id else price.price_id
        term = pb.PriceTerm.Name(price.term).removeprefix("PRICE_TERM_").lower().replace("_", " ")
        patches = [] if price.price_id == found.cost.price_id else _rented_on(spec, price.accelerator, chosen)
        if patches:
            yield pb.Remedy(patches=patches, summary=f"on {price.accelerator} from {price.provider}, {term}")


def _faster(spec: rs.RunSpec, found: pb.Estimate, knowledge: Knowledge) -> Iterator[pb.Remedy]:
    """The fastest accelerators that have a price and the memory, the slowest of them first; then more devices."""
    needed = found.memory.device_bytes.high
    large = [
        entry for entry in accelerators() if entry.usable_bytes >= needed and knowledge.prices.cheapest(entry.name)
    ]
    for entry in sorted(large, key=lambda entry: (entry.training_flops, entry.name))[-FASTEST:]:
        if entry.name != spec.hardware.accelerator:
            yield pb.Remedy(patches=_rented_on(spec, entry.name), summary=f"on {entry.name}")
    count = max(1, spec.hardware.count) * 2
    while count <= MOST_DEVICES:
        yield pb.Remedy(patches=[_patch("hardware.count", count, f"{count} devices")], summary=f"on {count} devices")
        count *= 2


def _rented_on(spec: rs.RunSpec, accelerator: str, price_id: str = "") -> list[ev.SpecPatch]:
    """Another accelerator or offer; empty means the usual one, and takes back the price that was chosen."""
    patches: list[ev.SpecPatch] = []
    if accelerator != spec.hardware.accelerator:
        patches.append(_patch("hardware.accelerator", accelerator, f"on {accelerator}"))
    if price_id != spec.ownership.rented.price_id:
        patches.append(_patch("ownership.rented.price_id", price_id, f"at {price_id}" if price_id else ""))
    return patches


def shorter(policy: pb.PlanPolicy, answer: pb.Estimate) -> Iterator[pb.Remedy]:
    """Fewer passes or steps, so that even the upper end of what grows with them is within its limit."""
    share = min(_shares(policy, answer), default=1.0)
    total = answer.time.total_seconds.high
    train = sum(item.seconds.high for item in answer.time.phases if item.kind == pb.TIME_PHASE_KIND_TRAIN)
    if share >= 1 or not train:
        return
    kept = (share * total - (total - train)) / train
    training = answer.resolved_spec.training
    if training.WhichOneof("length") == "max_steps":
        steps = math.floor(training.max_steps * kept)
        if steps >= 1:
            patch = _patch("training.max_steps", steps, f"{steps} steps in place of {training.max_steps}")
            yield pb.Remedy(patches=[patch], summary=patch.summary)
        return
    epochs = _whole(training.epochs * kept)
    if epochs > 0:
        text = f"{epochs:g} {'epoch' if epochs == 1 else 'epochs'} in place of {training.epochs:g}"
        yield pb.Remedy(patches=[_patch("training.epochs", epochs, text)], summary=text)


def _whole(epochs: float) -> float:
    """Rounded down: to whole passes where there is one, else to tenths of one."""
    return float(math.floor(epochs)) if epochs >= 1 else math.floor(epochs * 10) / 10


def _shares(policy: pb.PlanPolicy, answer: pb.Estimate) -> Iterator[float]:
    """Of each limit that grows with the length of a run: the share of the upper end that it allows."""
    cost = answer.cost
    monthly = cost.monthly_amount if cost.HasField("monthly_amount") else cost.amount
    pairs = {
        "max_cost": cost.amount,
        "max_monthly_cost": monthly,
        "max_seconds": answer.time.total_seconds,
        "max_energy_kwh": cost.energy_kwh,
        "max_carbon_kg": cost.carbon_kg,
    }
    limits = {field.name: float(value) for field, value in policy.ListFields() if field.name in pairs}
    for name, limit in limits.items():
        if pairs[name].high > 0:
            yield limit / pairs[name].high


def _patch(path: str, value: str | float, summary: str) -> ev.SpecPatch:
    return ev.SpecPatch(field_path=path, json_value=json.dumps(value), summary=summary)
