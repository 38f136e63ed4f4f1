# SPDX-License-Identifier: Apache-2.0
"""Cautions on limits: those that a verdict breaks, those that cannot be checked, and what serving the result needs."""

import math
from collections.abc import Iterator

from finetree.quantities import approximate_duration
from finetree_api.types.v1 import run_spec_pb2, serving_pb2
from finetree_runtime.serving.check import Asked, check
from finetree_runtime.serving.facts import Facts, Form, facts_of_spec

from finetree_recommender.decision.fit import OVER_BUDGET, OVER_MAX_DURATION
from finetree_recommender.decision.limits import USD
from finetree_recommender.decision.prior_figures import prior_of
from finetree_recommender.decision.situation import Situation
from finetree_recommender.estimator.values import FitState
from finetree_recommender.explain.reasons import shortfall
from finetree_recommender.formatting import duration
from finetree_recommender.method import Method, listed
from finetree_recommender.rule_pack.schema.limits import QualityFloor
from finetree_recommender.rule_pack.schema.rules import Option
from finetree_recommender.trace import Caution


def unmet(situation: Situation) -> Iterator[Caution]:
    """Limits that the verdict breaks, since no method that the rules would take here keeps them all."""
    method = situation.decision.method
    if method is None:
        return
    for item in situation.violations[method]:
        text = f"{method}: {item.message}; {_kept_by(situation)}{_nearest(situation, item.code, method)}"
        if item.code == OVER_BUDGET and _rented_by_default(situation):
            text += "; this is the price of renting: state the price of electricity (ownership.owned.price_per_kwh) "
            text += "if the hardware is your own"
        yield Caution(item.code, text, item.rule_id)
    yield from _quality(situation, method)


def contradictions(situation: Situation) -> Iterator[Caution]:
    """Answers that no single method meets, and which of them the verdict does not meet.

    Of a budget or a time with figures the limits' own cautions tell.
    """
    decision, answers = situation.decision, situation.answers
    # Of the questions but that for the memory, the answers that vote.
    asked = [
        (question.input, option)
        for question in situation.pack.rules.questions
        for option in question.options
        if question.input != "memory" and option.votes and option.value == answers.get(question.input)
    ]
    if decision.method is None or len(asked) < 2:
        return
    if set(asked[0][1].votes).intersection(*[option.votes for _, option in asked[1:]]):
        return
    others = [(name, option) for name, option in asked if decision.method not in option.votes]
    parts = []
    for known, words in ((False, "does not meet"), (None, "may not meet")):
        gave = [_answer_words(name, option) for name, option in others if _is_met(situation, name) is known]
        parts += [f"{words}: {'; '.join(gave)}"] if gave else []
    if parts:
        text = f"the answers ask for different methods; the one chosen {', and '.join(parts)}"
        yield Caution("CONTRADICTORY_ANSWERS", text, decision.verdict.rule_id)


def _answer_words(name: str, option: Option) -> str:
    """An answer and the methods that it votes for: "time minutes (for prefix tuning)"."""
    word = option.label[:1].lower() + option.label[1:] if name == "budget" else option.value.lower().replace("_", " ")
    return f"{name} {word} (for {listed(option.votes, 'or')})"


def _is_met(situation: Situation, question: str) -> bool | None:
    """Whether the verdict meets an answer that votes for other methods; None where no figure tells.

    A budget or a time with a figure counts as met: where it is exceeded, the cautions on limits say by how much.
    """
    pack, method = situation.pack, situation.decision.method
    if method is None:
        return None
    if question == "budget":
        return True if situation.usd(method) is not None else None
    if question == "time":
        return True if situation.seconds(method) is not None else None
    if question == "quality":
        floor = next((item for item in pack.rules.quality_floors if item.need == situation.answers.quality), None)
        return floor is None or pack.card(method).quality_percent.expected >= floor.percent
    return question == "tasks" and method.shares_base


def unchecked(situation: Situation) -> Iterator[Caution]:
    """Limits that could not be compared with a figure, and those that the figure's upper end exceeds."""
    method = situation.decision.method
    if method is not None:
        yield from _unchecked_duration(situation, method)
        yield from _unchecked_budget(situation, method)


def _unchecked_duration(situation: Situation, method: Method) -> Iterator[Caution]:
    limit, expected, estimate = situation.limits.max_seconds, situation.seconds(method), situation.estimate(method)
    rule = situation.pack.rules.limits.max_duration
    if limit is None:
        return
    if expected is None:
        yield Caution("MAX_DURATION_UNCHECKED", f"the time of a run is unknown: {_missing(situation)}", rule.id)
        return
    high = estimate.total_seconds.high if estimate is not None and estimate.total_seconds is not None else 0.0
    if expected <= limit < high:
        text = f"the run may take up to {duration(high)}; the time limit is {duration(limit)}"
        yield Caution("MAX_DURATION_AT_RISK", text, rule.id)


def _unchecked_budget(situation: Situation, method: Method) -> Iterator[Caution]:
    limit, expected, estimate = situation.limits.run_usd, situation.usd(method), situation.estimate(method)
    rule = situation.pack.rules.limits.budget
    if limit is None:
        return
    if expected is None:
        yield Caution("BUDGET_UNCHECKED", f"the cost of a run in USD is unknown: {_missing(situation)}", rule.id)
        return
    high = estimate.cost.amount.high if estimate is not None and estimate.cost is not None else 0.0
    if expected <= limit < high:
        text = f"the run may cost up to {high:.2f} USD; the budget is {limit:.2f} USD"
        yield Caution("BUDGET_AT_RISK", text, rule.id)


def slower(situation: Situation) -> Iterator[Caution]:
    """A run that takes longer than the answer on time, where no max_duration was given."""
    method = situation.decision.method
    if method is None or situation.limits.max_seconds is not None:
        return
    durations = situation.pack.rules.durations
    asked = next((each for each in durations if each.implies == situation.answers.time), None)
    seconds = situation.seconds(method)
    if asked is None or seconds is None or seconds <= asked.high:
        return
    text = f"{asked.key} are available, but {method} is expected to take {duration(seconds)}"
    text += (
        f"{_nearest(situation, OVER_MAX_DURATION, method)}: fewer rows, fewer epochs or faster hardware make it shorter"
    )
    yield Caution("SLOWER_THAN_ASKED", text, asked.id)


def device_notes(situation: Situation) -> Iterator[Caution]:
    """What the GPU's generation cannot do."""
    entry, rules = situation.inputs.device.entry, situation.pack.rules.capabilities
    if entry is None or entry.capability is None or entry.capability >= rules.bf16.value:
        return
    text = f"compute capability {entry.capability:.1f} has no bfloat16 (needs {rules.bf16.value:.1f}): "
    text += "the run uses float16"
    if entry.capability < rules.int8.value:
        text += f", and 8-bit bases do not work (need {rules.int8.value:.1f}); 4-bit bases do"
    yield Caution("NO_BF16", text, rules.bf16.id)


def serving_notes(situation: Situation, built: run_spec_pb2.RunSpec | None) -> Iterator[Caution]:
    """How to serve the result on the named servers; `built` is the recipe, None where there is none."""
    facts = facts_of_spec(built, family=_family(situation)) if built is not None else None
    limit, adapter = situation.pack.rules.serving_rank, facts if facts is not None and facts.form is Form.LORA else None
    if "VLLM" in situation.limits.serving and adapter is not None and adapter.rank > limit.value:
        text = f"vllm: the adapter has rank {adapter.rank}, and vLLM loads up to {limit.value:g} by default; start it"
        yield Caution("SERVING_NOTE", f"{text} with --max-lora-rank {adapter.words()['max_rank']}", limit.id)
    for target in situation.limits.serving:
        name = target.lower().replace("_", ".")
        rules = [
            r for r in situation.pack.rules.serving if r.target == target and situation.decision.method in r.methods
        ]
        for rule in rules:
            if rule.served:
                yield Caution("SERVING_NOTE", f"{name}: {rule.note}", rule.id)
        if facts is not None and all(rule.served for rule in rules):
            yield from _read_in_code(target, facts, name=name, noted=bool(rules))


def _family(situation: Situation) -> str:
    model = situation.inputs.model
    return model.family if model is not None else ""


def _read_in_code(target: str, facts: Facts, *, name: str, noted: bool) -> Iterator[Caution]:
    """What the server's code says of the recipe: what it does not serve, and how it serves it where no pack says."""
    answers = check(facts, [Asked(serving_pb2.ServingTarget.Value(f"SERVING_TARGET_{target}"))])
    for answer in answers:
        told = [answer.message, *([answer.remedy] if answer.remedy else [])]
        told += [f"To serve it: {'; '.join(answer.steps)}."] if answer.steps else []
        if answer.verdict == serving_pb2.SERVING_VERDICT_NOT or not noted:
            of = f"{name} {answer.versions}" if len(answers) > 1 else name
            yield Caution("SERVING_NOTE", f"{of}: {' '.join(told)}", answer.rule_ids[0])


def _kept_by(situation: Situation) -> str:
    """Whether any method that trains here keeps every limit."""
    choice = situation.decision.choice
    asked = [m for m in choice.order.above if m in choice.passage.feasible and m in _running(situation)]
    kept = [method for method in asked if not situation.violations[method]]
    if not kept:
        return "no method here keeps every limit"
    return f"only {listed(kept, 'and')} would keep every limit, at more quality than the rules ask for"


def _running(situation: Situation) -> list[Method]:
    """The methods that train here; all of them where nothing was estimated."""
    evidence = situation.evidence
    return [method for method in Method if evidence is None or evidence.states[method].trains]


def _rented_by_default(situation: Situation) -> bool:
    """Whether the cost is that of rented hardware because the ownership was not stated."""
    return situation.evidence is not None and not situation.inputs.request.HasField("ownership")


def _nearest(situation: Situation, code: str, method: Method) -> str:
    """Which method comes nearest to a time limit or budget; empty for other limits."""
    kind = {OVER_MAX_DURATION: (situation.seconds, "the fastest"), OVER_BUDGET: (situation.usd, "the cheapest")}.get(
        code
    )
    if kind is None:
        return ""
    figure, words = kind
    found = [(value, running) for running in _running(situation) if (value := figure(running)) is not None]
    if not found:
        return ""
    value, nearest = min(found)
    if nearest is method:
        return f", and it is {words}"
    return f"; {words}, {nearest}: {duration(value) if code == OVER_MAX_DURATION else f'{value:.2f} USD'}"


def _quality(situation: Situation, method: Method) -> Iterator[Caution]:
    pack, answers = situation.pack, situation.answers
    short, floor = tuple(shortfall(pack, answers, method)), _below(situation, method)
    if not short and floor is None:
        return
    better, instead = "", _reaching(situation, method)
    if instead is not None:
        seconds = situation.seconds(instead)
        better = f"; {instead} {'fit' if instead.plural else 'fits'} here too"
        better += f", in about {approximate_duration(seconds)}" if seconds is not None else ""
    for reason in short:
        text = f"{method}: it may fall short, {reason.message}{better}"
        yield Caution(reason.code, text, reason.rule_id, instead)
    if floor is not None:
        figure = pack.card(method).quality_percent
        text = f"{method}: {figure.expected:g} percent of full fine-tuning; {floor.percent:g} are needed{better}"
        yield Caution("BELOW_QUALITY_NEED", text, floor.id, instead)


def _below(situation: Situation, method: Method) -> QualityFloor | None:
    """The floor of the quality that is needed, where a card without priors is below it."""
    pack, answers = situation.pack, situation.answers
    if prior_of(pack, method, answers.task_domain, answers.data) is not None:
        return None
    floor = next((item for item in pack.rules.quality_floors if item.need == answers.quality), None)
    return floor if floor is not None and pack.card(method).quality_percent.expected < floor.percent else None


def _reaching(situation: Situation, method: Method) -> Method | None:
    """The quickest other method with room here that keeps every limit and is expected to reach the needed quality."""
    evidence, pack, answers = situation.evidence, situation.pack, situation.answers
    if evidence is None:
        return None
    asked = next((each for each in pack.rules.durations if each.implies == answers.time), None)
    longest = asked.high if asked is not None else math.inf
    able = [
        each
        for each in Method
        if each is not method
        and evidence.best[each].state is FitState.FITS
        and not situation.violations[each]
        and (situation.seconds(each) or 0.0) <= longest
        and not any(shortfall(pack, answers, each))
        and _below(situation, each) is None
    ]
    return min(able, key=lambda each: situation.seconds(each) or 0.0, default=None)


def _missing(situation: Situation) -> str:
    """Inputs without which there is no figure, in words."""
    inputs = situation.inputs
    lacking = [] if inputs.model_known else ["the model (`model`)"]
    lacking += [] if inputs.hardware_known else ["the hardware (`hardware`)"]
    lacking += [] if inputs.profile is not None else ["the number of rows (dataset_profile.examples)"]
    if lacking:
        return f"state {listed(lacking, 'and')}"
    if situation.evidence is None:
        return "ask again once the estimator answers"
    currency = situation.inputs.request.ownership.owned.price_per_kwh.currency_code
    if currency not in ("", USD):
        return f"the cost is in {currency}; state the price of a kilowatt-hour in USD to have it checked"
    owned = "that of the electricity of your own (ownership.owned.price_per_kwh)"
    return f"state the price of renting it (ownership.rented.price_id), or {owned}"
