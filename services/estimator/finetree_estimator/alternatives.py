# SPDX-License-Identifier: Apache-2.0
"""Changes to a run that might keep its limits, the least harmful first. Whether they do, the gate tries out."""

import json
import math
from collections.abc import Callable, Iterator

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_api.types.v1 import run_spec_pb2 as rs

from finetree_estimator.accelerators import accelerators
from finetree_estimator.changes import apply_patch
from finetree_estimator.devices import USABLE_SHARE
from finetree_estimator.lookups import Knowledge
from finetree_estimator.names import GIB

Estimator = Callable[[pb.EstimateRunRequest], pb.Estimate]
"""The answer to a valid request; raises DomainError."""

MOST_DEVICES = 8
"""Devices up to which more of them are proposed: those of one machine."""


def of(
    policy: pb.PlanPolicy, run: pb.EstimateRunRequest, answer: pb.Estimate, estimate: Estimator, knowledge: Knowledge
) -> Iterator[pb.Remedy]:
    """Changes to what the request says, as patches with one line for people."""
    yield from _lighter(policy, run, answer, estimate)
    if run.spec.hardware.accelerator and not run.spec.ownership.HasField("owned"):
        yield from _other_hardware(run.spec, knowledge)
    yield from _shorter(policy, answer)


def applied(run: pb.EstimateRunRequest, remedy: pb.Remedy) -> pb.EstimateRunRequest:
    """The request with a remedy's patches made to its spec, as a user would make them."""
    changed = pb.EstimateRunRequest()
    changed.CopyFrom(run)
    for patch in remedy.patches:
        apply_patch(changed.spec, patch.field_path, patch.json_value)
    return changed


def _lighter(
    policy: pb.PlanPolicy, run: pb.EstimateRunRequest, answer: pb.Estimate, estimate: Estimator
) -> Iterator[pb.Remedy]:
    """What the search for a run that fits finds, on this hardware and on the smallest other."""
    usable = answer.memory.usable_device_bytes
    limits = [usable] if policy.must_fit and usable else []
    limits += [policy.max_device_bytes] if policy.HasField("max_device_bytes") else []
    if not limits or answer.memory.device_bytes.high <= min(limits):
        return
    asked = pb.EstimateRunRequest()
    asked.CopyFrom(run)
    asked.view = pb.ESTIMATE_VIEW_FULL
    if min(limits) < usable:
        # The same run on a device of the size that the policy allows: what fits there keeps the limit.
        asked.spec.hardware.unknown_accelerator.marketed_memory_gb = min(limits) / GIB / USABLE_SHARE
        asked.spec.ClearField("ownership")
    found = estimate(asked)
    yield from (pb.Remedy(patches=item.patches, summary=_summary(item)) for item in found.remedies)
    if not run.spec.ownership.HasField("owned"):
        yield from (_on(option, run.spec) for option in found.smallest_hardware)


def _summary(remedy: pb.Remedy) -> str:
    return ", ".join(patch.summary or patch.field_path for patch in remedy.patches)


def _on(option: pb.HardwareOption, spec: rs.RunSpec) -> pb.Remedy:
    patches = _rented_on(spec, option.accelerator)
    if option.count != max(1, spec.hardware.count):
        patches.append(_patch("hardware.count", option.count, f"{option.count} devices"))
    if option.sharding:
        name = rs.Sharding.Name(option.sharding)
        patches.append(_patch("hardware.sharding", name, name.removeprefix("SHARDING_").lower().replace("_", " ")))
    return pb.Remedy(patches=patches, summary=", ".join(patch.summary for patch in patches if patch.summary))


def _other_hardware(spec: rs.RunSpec, knowledge: Knowledge) -> Iterator[pb.Remedy]:
    """The cheapest offer of the same accelerator, every other priced one, the cheapest first, then more devices."""
    quotes = [(quote, entry.name) for entry in accelerators() if (quote := knowledge.prices.cheapest(entry.name))]
    mine = spec.hardware.accelerator
    if spec.ownership.rented.price_id:
        yield pb.Remedy(
            patches=[_patch("ownership.rented.price_id", "", "the cheapest offer")], summary="the cheapest offer"
        )
    for _, name in sorted(quotes, key=lambda item: (item[0].hourly, item[1])):
        if name != mine:
            yield pb.Remedy(patches=_rented_on(spec, name), summary=f"on {name}")
    count = max(1, spec.hardware.count) * 2
    while count <= MOST_DEVICES:
        yield pb.Remedy(patches=[_patch("hardware.count", count, f"{count} devices")], summary=f"on {count} devices")
        count *= 2


def _rented_on(spec: rs.RunSpec, accelerator: str) -> list[ev.SpecPatch]:
    """Another accelerator, and without the price that was chosen for this one."""
    patches = [_patch("hardware.accelerator", accelerator, f"on {accelerator}")]
    if spec.ownership.rented.price_id:
        patches.append(_patch("ownership.rented.price_id", "", ""))
    return patches


def _shorter(policy: pb.PlanPolicy, answer: pb.Estimate) -> Iterator[pb.Remedy]:
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
