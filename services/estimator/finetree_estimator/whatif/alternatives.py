# SPDX-License-Identifier: Apache-2.0
"""Search for changes after which a run passes the limits of a policy, and the reason where none is found."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from finetree_api.types.v1 import hardware_pb2, run_spec_pb2
from finetree_runtime.errors import DomainError

from finetree_estimator.catalog.accelerators import accelerator, accelerators
from finetree_estimator.catalog.price_book import Term
from finetree_estimator.evidence.calibration import EMPTY, Calibration
from finetree_estimator.memory import fit
from finetree_estimator.spec.parse import with_spec
from finetree_estimator.spec.resolve import Knowledge
from finetree_estimator.spec.settings import device_count
from finetree_estimator.timing.phases import Phase
from finetree_estimator.whatif import hardware, remedies
from finetree_estimator.whatif.changes import Patch, apply_patches
from finetree_estimator.whatif.fallbacks import Answer, answer_request
from finetree_estimator.whatif.findings import Finding, Verdict, accepts, findings, is_settled
from finetree_estimator.whatif.measured import predicted
from finetree_estimator.whatif.policy import NAMED, Limit, Metric, Policy, Undecided

MAX_DEVICES = 8
"""Most devices that are proposed: one machine's."""
FASTEST = 4
"""Number of accelerators that are tried for their speed."""
MAX_REMEDIES = 4
"""Most remedies in an answer."""
ALIKE = 2
"""Most remedies that begin with the same setting, so that four accelerators do not displace all other kinds."""
GROWING = (Metric.COST, Metric.MONTHLY_COST, Metric.DURATION_SECONDS, Metric.ENERGY_KWH, Metric.CARBON_KG)
"""Metrics that grow with the duration of a run."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """Changes to a spec, with a summary of one line."""

    patches: tuple[Patch, ...]
    summary: str

    def and_then(self, other: "Alternative") -> "Alternative":
        """Combine two alternatives."""
        return Alternative((*self.patches, *other.patches), f"{self.summary}, {other.summary}")


@dataclass(frozen=True, slots=True)
class Trial:
    """An alternative, the answer to the changed request, and the findings of a policy on it."""

    alternative: Alternative
    answer: Answer
    findings: dict[str, Finding]
    """By rule id."""
    undecided: Undecided = Undecided.FAIL
    """What the policy makes of undecided limits."""

    @property
    def passes(self) -> bool:
        """Whether every limit passes or is lifted."""
        return all(is_settled(finding, self.undecided) for finding in self.findings.values())

    def keeps(self, rule_id: str) -> bool:
        """Whether one limit passes."""
        return self.findings[rule_id].verdict is Verdict.PASS


@dataclass(frozen=True, slots=True)
class Search:
    """Search for alternatives to an answered run."""

    policy: Policy
    limits: tuple[Limit, ...]
    """Limits of the policy that are not lifted."""
    answer: Answer
    knowledge: Knowledge
    calibration: Calibration = EMPTY

    def trials(self) -> list[Trial]:
        """Try alternatives, the least harmful first; where none passes, also each of them with a shorter run."""
        alone = list(self._tried(self._alternatives()))
        if any(trial.passes for trial in alone):
            return alone
        # A shorter run comes last: how much shorter it must be depends on the other change.
        both = [
            trial.alternative.and_then(shorter)
            for trial in alone
            for shorter in shorter_runs(self.limits, trial.answer)
        ]
        return alone + list(self._tried(both))

    def _tried(self, alternatives: Iterable[Alternative]) -> Iterator[Trial]:
        for alternative in alternatives:
            if alternative.patches and (trial := self._trial(alternative)) is not None:
                yield trial

    def _trial(self, alternative: Alternative) -> Trial | None:
        """Answer the request with an alternative; None where it conflicts, or does not fit the new hardware."""
        request = self.answer.parsed.request
        changed = with_spec(request, apply_patches(request.spec, alternative.patches))
        try:
            other = answer_request(changed, self.knowledge, self.calibration)
            found = {finding.rule_id: finding for finding in findings(self.policy, other)}
        except DomainError:
            return None
        if other.estimate.fit.verdict is not fit.Verdict.FITS and alternative.patches[0].path.startswith("hardware."):
            return None
        return Trial(alternative, other, found, self.policy.undecided)

    def _alternatives(self) -> Iterator[Alternative]:
        """Generate alternatives to the request's spec."""
        free = movable(self.answer.parsed.request.spec)
        if self._too_large():
            yield from self._lighter()
            if free:
                yield from self._on_smallest()
        if free:
            yield from self._from_another_provider()
            yield from self._offered()
            yield from self._faster()
        yield from shorter_runs(self.limits, self.answer)

    def _too_large(self) -> bool:
        """Whether the peak exceeds the policy's memory limit, or the device where it must fit."""
        peak, usable = self.answer.estimate.memory.device, self.answer.parsed.run.device.usable_bytes
        must_fit = any(limit.metric is Metric.FIT for limit in self.limits)
        exceeds = any(limit.compared(peak) > bound for limit, bound in self._memory_limits())
        return exceeds or (must_fit and 0 < usable < peak.high)

    def _device_bytes(self) -> int:
        """Lowest limit of the device peak in bytes; 0 where the policy has none."""
        return int(min((bound for _, bound in self._memory_limits()), default=0))

    def _memory_limits(self) -> list[tuple[Limit, float]]:
        """Limits of the device peak with their bounds in bytes."""
        of_memory = (limit for limit in self.limits if limit.metric is Metric.DEVICE_BYTES)
        return [(limit, limit.bound) for limit in of_memory if limit.bound is not None]

    def _lighter(self) -> Iterator[Alternative]:
        """Generate changes that lower memory until the run fits and is below the policy's limit."""
        parsed, correction = self.answer.parsed, self.answer.correction
        found = remedies.search(parsed, self.knowledge, correction, limit_bytes=self._device_bytes())
        if not found and (least := remedies.furthest(parsed, self.knowledge, correction)) is not None:
            found = [least]  # does not pass, but shows how near the limit can be reached
        for remedy in found:
            patches = tuple(patch for change in remedy.changes for patch in change.patches)
            yield Alternative(patches, _said(patch.summary for patch in patches))

    def _on_smallest(self) -> Iterator[Alternative]:
        """Generate moves to the smallest accelerators on which the run fits."""
        spec = self.answer.parsed.request.spec
        for option in hardware.smallest(self.answer.parsed, self.knowledge, self.calibration):
            patches = _rented_on(spec, option.accelerator)
            if option.count != device_count(spec):
                text = "1 device" if option.count == 1 else f"{option.count} devices"
                patches.append(Patch("hardware.count", option.count, text))
            if spec.hardware.nodes > 1:
                patches.append(Patch("hardware.nodes", 1, "in one machine"))
            if option.count > 1:
                name = hardware_pb2.Sharding.Name(option.sharding)
                text = f"{name.removeprefix('SHARDING_').lower()} sharding"
                patches.append(Patch("hardware.sharding", name, text))
            yield Alternative(tuple(patches), _said(patch.summary for patch in patches))

    def _from_another_provider(self) -> Iterator[Alternative]:
        """Generate the same hardware at the lowest price of the providers that the policy accepts."""
        spec, offering = self.answer.parsed.request.spec, self._offering()
        name = accelerator(spec.hardware.accelerator).name
        quote = offering.prices.cheapest(name, device_count(spec))
        if offering is not self.knowledge and quote is not None and quote.price_id != spec.ownership.rented.price_id:
            patch = Patch("ownership.rented.price_id", quote.price_id, f"at {quote.price_id}")
            yield Alternative((patch,), f"from {quote.provider}")

    def _offered(self) -> Iterator[Alternative]:
        """Generate moves to the cheapest offer of each accelerator on which the run fits.

        Spot offers come last, since they can be withdrawn at any time.
        """
        spec, own = self.answer.parsed.request.spec, self.answer.estimate.cost
        found = hardware.offers(self.answer, self._offering(), self.calibration)
        seen: set[str] = set()
        for offer in sorted(found, key=lambda item: item.quote.term is Term.SPOT):
            quote = offer.quote
            if quote.accelerator in seen:
                continue
            seen.add(quote.accelerator)
            usual = self.knowledge.prices.cheapest(quote.accelerator, offer.devices)
            price_id = "" if usual is not None and usual.price_id == quote.price_id else quote.price_id
            paid_now = own is not None and own.price_id == quote.price_id
            patches = [] if paid_now else _rented_on(spec, quote.accelerator, price_id)
            if patches:
                term = quote.term.name.lower().replace("_", " ")
                yield Alternative(tuple(patches), f"on {quote.accelerator} from {quote.provider}, {term}")

    def _offering(self) -> Knowledge:
        """The same knowledge with the prices of the providers alone that the policy accepts."""
        limits = [limit for limit in self.limits if limit.metric is Metric.PROVIDER]
        if not limits:
            return self.knowledge
        prices = self.knowledge.prices.only(lambda quote: all(accepts(limit, quote.provider) for limit in limits))
        return replace(self.knowledge, prices=prices)

    def _faster(self) -> Iterator[Alternative]:
        """Generate moves to the FASTEST accelerators with a price and enough memory; then more devices."""
        spec, needed = self.answer.parsed.request.spec, self.answer.estimate.memory.device.high
        large = [
            entry
            for entry in accelerators()
            if entry.usable_bytes >= needed and self.knowledge.prices.cheapest(entry.name)
        ]
        for entry in sorted(large, key=lambda entry: (entry.training_flops, entry.name))[-FASTEST:]:
            if entry.name != spec.hardware.accelerator:
                yield Alternative(tuple(_rented_on(spec, entry.name)), f"on {entry.name}")
        count = device_count(spec) * 2
        while count <= MAX_DEVICES:
            yield Alternative((Patch("hardware.count", count, f"{count} devices"),), f"on {count} devices")
            count *= 2


def movable(spec: run_spec_pb2.RunSpec) -> bool:
    """Whether other hardware may be proposed: not for owned hardware, a CPU or an unnamed accelerator."""
    return bool(spec.hardware.accelerator) and not spec.ownership.HasField("owned")


def shorter_runs(limits: tuple[Limit, ...], answer: Answer) -> Iterator[Alternative]:
    """Reduce epochs or steps until the upper ends of all metrics in GROWING are within their limits."""
    times, training = answer.estimate.times, answer.parsed.spec.training
    share = min(_shares(limits, answer), default=1.0)
    if times is None or share >= 1:
        return
    train = sum(seconds.high for phase, seconds in times.phases if phase is Phase.TRAIN)
    if not train:
        return
    total = times.total.high
    kept = (share * total - (total - train)) / train
    if training.WhichOneof("length") == "max_steps":
        steps = math.floor(training.max_steps * kept)
        if steps >= 1:
            yield _single(Patch("training.max_steps", steps, f"{steps} steps in place of {training.max_steps}"))
        return
    epochs = _whole(training.epochs * kept)
    if epochs > 0:
        text = f"{epochs:g} {'epoch' if epochs == 1 else 'epochs'} in place of {training.epochs:g}"
        yield _single(Patch("training.epochs", epochs, text))


def _shares(limits: Iterable[Limit], answer: Answer) -> Iterator[float]:
    """Bound divided by the upper end, for each limit of a metric in GROWING."""
    for limit in limits:
        if limit.metric in GROWING and limit.bound is not None:
            number = predicted(limit.metric, answer)
            if number is not None and limit.compared(number) > 0:
                yield limit.bound / limit.compared(number)


def best(trials: Iterable[Trial]) -> list[Trial]:
    """Select the first trials that pass, at most ALIKE of each kind."""
    chosen: list[Trial] = []
    for trial in trials:
        patches = trial.alternative.patches
        alike = sum(other.alternative.patches[0].path == patches[0].path for other in chosen)
        if trial.passes and alike < ALIKE and all(other.alternative.patches != patches for other in chosen):
            chosen.append(trial)
    return chosen[:MAX_REMEDIES]


def why_none(found: Iterable[Finding], trials: list[Trial], *, undecided: Undecided, hardware_tried: bool) -> str:
    """Explain in one line why no change passes: how near the nearest change comes to each limit."""
    broken = [finding for finding in found if not is_settled(finding, undecided)]
    unknown: dict[str, list[str]] = {}
    for finding in broken:
        if finding.is_missing:
            unknown.setdefault(finding.message, []).append(finding.rule_id)
    parts = [f"{', '.join(rule_ids)}: {text}" for text, rule_ids in unknown.items()]
    parts += [_obstacle(finding, trials) for finding in broken if not finding.is_missing]
    if not hardware_tried:
        parts.append("other hardware is not proposed for owned hardware, a CPU or an unnamed accelerator")
    tried = f"{len(trials)} changes were tried, none passes" if len(trials) > 1 else "the only possible change fails"
    return f"{tried if trials else 'no change is possible'}: {'; '.join(parts)}"


def _obstacle(finding: Finding, trials: list[Trial]) -> str:
    """Explain why one limit is not passed."""
    rule_id, metric = finding.rule_id, finding.limit.metric
    for trial in trials:
        if trial.keeps(rule_id):
            return f"{rule_id} passes {_by(trial)}, but then {_others(trial)}"
    if metric is Metric.CONFIDENCE:
        return f"{rule_id} depends on how similar the measured runs are, and no change brings a more similar one"
    if metric in NAMED or metric in (Metric.EXAMPLES, Metric.TOKENS):
        # Which model, method and data a run needs is not ours to say.
        what = "offer of another one was found" if metric is Metric.PROVIDER else "other one is proposed"
        return f"{rule_id}: {finding.message}; no {what}"
    return f"{rule_id} {_nearest(finding, trials)}"


def _by(trial: Trial) -> str:
    summary = trial.alternative.summary
    return summary if summary.startswith("on ") else f"with {summary}"


def _others(trial: Trial) -> str:
    """List the limits that fail after a change."""
    broken = [rule_id for rule_id, finding in trial.findings.items() if not is_settled(finding, trial.undecided)]
    return f"{' and '.join(broken)} {'does' if len(broken) == 1 else 'do'} not"


def _nearest(finding: Finding, trials: list[Trial]) -> str:
    """State the lowest upper end that was reached, and with which change."""
    rule_id, write = finding.rule_id, finding.limit.write
    reached = [(_excess(finding), "without changes", finding)]
    reached += [(_excess(trial.findings[rule_id]), _by(trial), trial.findings[rule_id]) for trial in trials]
    _, how, nearest = min(reached, key=lambda item: item[0])
    if nearest.measured is None:
        return f"is {nearest.message}"
    return f"may reach {write(nearest.limit.compared(nearest.measured))} {how}, limit {write(nearest.bound or 0.0)}"


def _excess(finding: Finding) -> float:
    """What is compared, divided by the limit; infinite where unknown, undivided where the limit is 0."""
    if finding.measured is None:
        return math.inf
    compared = finding.limit.compared(finding.measured)
    return compared / finding.bound if finding.bound else compared


def _rented_on(spec: run_spec_pb2.RunSpec, accelerator: str, price_id: str = "") -> list[Patch]:
    """Patches for another accelerator or price; an empty `price_id` selects the default price."""
    patches: list[Patch] = []
    if accelerator != spec.hardware.accelerator:
        patches.append(Patch("hardware.accelerator", accelerator, f"on {accelerator}"))
    if price_id != spec.ownership.rented.price_id:
        patches.append(Patch("ownership.rented.price_id", price_id, f"at {price_id}" if price_id else ""))
    return patches


def _single(patch: Patch) -> Alternative:
    return Alternative((patch,), patch.summary)


def _said(parts: Iterable[str]) -> str:
    """Join the summaries of patches, each distinct text once."""
    return ", ".join(dict.fromkeys(part for part in parts if part))


def _whole(epochs: float) -> float:
    """Round epochs down to whole ones, below 1 to tenths."""
    return float(math.floor(epochs)) if epochs >= 1 else math.floor(epochs * 10) / 10
