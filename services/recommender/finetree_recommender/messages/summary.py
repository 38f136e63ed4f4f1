# SPDX-License-Identifier: Apache-2.0
"""Recommendation in plain words: a headline, and the three sentences that a busy person reads."""

from collections.abc import Iterator

from finetree.quantities import approximate_duration, cost_words, duration_words, memory_words
from finetree_runtime.runspec.number_formats import measured_rate

from finetree_recommender.decision.stages import choose
from finetree_recommender.estimator.values import Estimate, FitState
from finetree_recommender.explain.cautions import MISSING_EVIDENCE
from finetree_recommender.explain.reasons import LEAF_WORDS
from finetree_recommender.explain.rental_offers import RENT
from finetree_recommender.explain.ways_out.questions import Kind
from finetree_recommender.formatting import gpu
from finetree_recommender.method import Method, listed
from finetree_recommender.recommend import Recommendation
from finetree_recommender.request.hardware import NOT_SUPPORTED
from finetree_recommender.rule_pack.answers import CPU

UPGRADE_WORDS = "upgrade GPU first"
"""Playbook's words for GPUs below 8 GB (L268)."""
_REMARKS = ("DATASET_UNKNOWN", "MODEL_SIZE_UNKNOWN", "LENGTHS_UNKNOWN")
"""Cautions about missing inputs rather than risks: quoted only where there is no risk."""
_ELSEWHERE = (RENT, NOT_SUPPORTED, "SERVING_NOTE")
"""Cautions that have a sentence of their own, or stand beside the paragraph."""
_UNKNOWN = (*MISSING_EVIDENCE, *_REMARKS)
_QUESTIONS = {
    "hardware": "the hardware",
    "budget_per_month": "the budget",
    "quality": "the quality needed",
    "time": "the time available",
    "tasks": "how many tasks there are",
}
"""Words for an unknown input, by its field."""
_SENTENCES = {
    "MOST_VOTES": "it matches more of your answers than any other method{runnable}",
    "TREE_LEAF": "it is the usual choice when no answer favors another method",
    "TIE_BREAK": "your answers favor {tied} equally, and the rules put it first",
    "MULTI_TASK": "it is made for many different tasks on one base model",
    "FITS_HERE": "the rules prefer {preferred}, which {verb} not fit in memory; this method does",
    "OTHERS_DO_NOT_FIT": "the rules prefer {preferred}, which {verb} not fit in memory",
}
"""Why a method is recommended, by the code of its first reason."""
_MATTERS = 0.5
"""Share of an unknown input's answers that change the verdict, from which it is asked for."""


def headline(answer: Recommendation) -> str:
    """Write the verdict in one line."""
    foreign = answer.inputs.device.unsupported
    return f"{foreign} is not supported yet; on {_other_device(answer)}: {_line(answer)}" if foreign else _line(answer)


def _line(answer: Recommendation) -> str:
    method = answer.decision.method
    if method is None:
        return _without_method(answer)
    title = answer.pack.card(method).title
    if answer.cautions and answer.cautions[0].code == "ROWS_CUT":
        return f"{title}, but {answer.cautions[0].message}"
    if answer.inputs.on_cpu and answer.estimate is not None and answer.estimate.total_seconds is not None:
        title += f", in about {approximate_duration(answer.estimate.total_seconds.expected)} on a CPU{_speed(answer)}"
    if answer.decision.upgrade_advised:
        speaker = answer.pack.rules.gate.speaker
        return f"{title}: it fits by the estimate, although {speaker} advises to upgrade the GPU first"
    return f"{title}: {_why(answer)}"


def _without_method(answer: Recommendation) -> str:
    if _unknown(answer):
        return "State the memory of the hardware: it decides which methods can train"
    if answer.ways_out:
        return f"Nothing trains here as asked, but {answer.ways_out[0].message}"
    if not answer.inputs.model_known:
        return "Name the model: the rules alone train none on so small a device, but a small model may fit"
    return "Upgrade the hardware: no method was shown to fit"


def paragraph(answer: Recommendation) -> str:
    """Write the answer in short: method and why, what it takes, and what to beware of or to state first."""
    parts = (_foreign, _verdict, _needs, _renting, _caution, _sharpening)
    return " ".join(text for text in (part(answer) for part in parts) if text)


def _foreign(answer: Recommendation) -> str:
    """Notice that the answer is for another device, where the named one is not supported."""
    foreign = answer.inputs.device.unsupported
    return f"{foreign} is not supported yet: this answer is for {_other_device(answer)}." if foreign else ""


def _verdict(answer: Recommendation) -> str:
    method = answer.decision.method
    if method is None and _unknown(answer):
        return f"Which methods train on {_device(answer)} depends on its memory, which is unknown."
    if method is None:
        return _nothing_trains(answer)
    if answer.decision.upgrade_advised:
        advice = f'For {_device(answer)} the playbook says "{UPGRADE_WORDS}"'
        return f"{advice}; by the estimate {method} trains this model on it all the same."
    return f"Use {method}: {_why(answer)}."


def _nothing_trains(answer: Recommendation) -> str:
    fits = f"no method was shown to fit {_device(answer)}"
    if answer.ways_out:
        return f"Nothing trains here as asked, since {fits}. What would: {'; or '.join(_ways(answer))}."
    choice = answer.decision.choice
    if _below_class(answer):
        return f'The playbook says "{UPGRADE_WORDS}", and {fits}.'
    if choice.method is None:
        return f"Upgrade the hardware: {fits}."
    return f"Upgrade the hardware: {answer.pack.rules.id} prefers {choice.method}, but {fits}."


def _ways(answer: Recommendation) -> Iterator[str]:
    """The first way out of each kind."""
    told: set[Kind] = set()
    for way in answer.ways_out:
        if way.kind not in told:
            told.add(way.kind)
            yield way.message


def _below_class(answer: Recommendation) -> bool:
    """Whether the pack's memory classes alone say to upgrade."""
    memory = answer.inputs.answers.memory
    classes = {item.key for item in answer.pack.rules.gate.classes if item.upgrade}
    return memory == CPU or memory in classes


def _other_device(answer: Recommendation) -> str:
    """A supported device of the same memory, in words."""
    gb = answer.inputs.device.gb
    return "a supported GPU" if gb is None else f"a supported GPU with {gb:g} GB"


def _unknown(answer: Recommendation) -> bool:
    """Whether it is unknown which methods fit, rather than that none does."""
    return any(item.code == "FIT_UNKNOWN" for item in answer.cautions)


def _why(answer: Recommendation) -> str:
    """Why the method is recommended, by the code of its first reason."""
    reason = answer.methods[0].reasons[0]
    choice = answer.decision.choice
    questions = len(answer.pack.rules.questions)
    if reason.code == "MOST_VOTES" and choice.ballot.unanswered == questions - 1 and answer.inputs.hardware_known:
        return f"it is what the rules recommend for {_device(answer)}"
    if reason.code == "TREE_LEAF" and (too_large := _too_large(answer)):
        return too_large
    if reason.code == "TREE_LEAF" and reason.message != LEAF_WORDS:
        return reason.message
    if reason.code == "MULTI_TASK" and answer.decision.method is not Method.ADAPTER:
        return "with many different tasks on one base model, each task adds one small file"
    sentence = _SENTENCES.get(reason.code)
    if sentence is None:
        return reason.message
    rules = choice.method if choice.method is not None else "another method"
    runnable = " that this hardware can run" if answer.inputs.hardware_known else ""
    return sentence.format(preferred=rules, verb=_do(choice.method), runnable=runnable, tied=_tied(answer))


def _too_large(answer: Recommendation) -> str:
    """Name the method that the rules would choose if every method fitted, where it does not; empty elsewhere.

    The tree's own reason is left out then: it compares the recommended method with some that do not fit. That of QLoRA
    is the memory.
    """
    evidence, method = answer.situation.evidence, answer.decision.method
    first = choose(answer.pack, answer.inputs.answers, dict.fromkeys(Method, FitState.FITS)).method
    if evidence is None or first is None or method is Method.QLORA:
        return ""
    if evidence.best[first].state is not FitState.DOES_NOT_FIT:
        return ""
    several = sum(state.trains for state in evidence.states.values()) > 1
    this = "of the methods that do, they prefer this one" if several else "this method does"
    return f"the rules prefer {first}, which {_do(first)} not fit in memory; {this}"


def _do(method: Method | None) -> str:
    """Write the verb of a method: adapter layers "do", the others "does"."""
    return "do" if method is not None and method.plural else "does"


def _tied(answer: Recommendation) -> str:
    """It and the other methods with as many votes."""
    ballot, method = answer.decision.choice.ballot, answer.decision.method
    votes = ballot.total(method) if method is not None else 0
    others: list[str] = [each for each in ballot.feasible if each is not method and ballot.total(each) == votes]
    return listed(["it", *(others or ["another method"])], "and")


def _device(answer: Recommendation) -> str:
    """The hardware in words; "a machine without a GPU" for a CPU."""
    hardware = answer.inputs.hardware
    device = hardware.WhichOneof("device")
    several = hardware.count > 1
    if device == "cpu":
        return "a machine without a GPU"
    if device == "accelerator":
        return f"each of the {hardware.count} {hardware.accelerator}" if several else f"the {hardware.accelerator}"
    gb = answer.inputs.device.gb
    if gb is None:
        return "this hardware"
    return f"each of the {hardware.count} GPUs with {gb:g} GB" if several else gpu(gb)


def _needs(answer: Recommendation) -> str:
    """What the recipe takes."""
    if answer.decision.method is None:
        return ""
    return _not_estimated(answer) if answer.estimate is None else _estimated(answer, answer.estimate)


def _not_estimated(answer: Recommendation) -> str:
    """Why memory, time and cost are not estimated."""
    code = next((item.code for item in answer.cautions if item.code in MISSING_EVIDENCE), "")
    because = {
        "ESTIMATOR_UNAVAILABLE": "the estimator did not answer",
        "MODEL_NOT_ESTIMATED": "the size of the model is unknown",
        "HARDWARE_UNKNOWN": "the hardware is unknown",
        "MEMORY_UNKNOWN": "the memory of the hardware is unknown",
        "MODEL_UNKNOWN": "the model is unknown",
    }.get(code, "the estimator has no figure")
    return f"Memory, time and cost are not estimated: {because}."


def _estimated(answer: Recommendation, estimate: Estimate) -> str:
    memory = memory_words(estimate.device_bytes, estimate.usable_bytes)
    text = f"It needs {memory} on {_device(answer)}"
    if estimate.total_seconds is None:
        return f"{text}; state the number of rows for time and cost."
    short = "rows are short" if _lengths_unknown(answer) else ""
    text += f" and takes {duration_words(estimate.total_seconds, low_if=short)}{_speed(answer)}"
    cost = estimate.cost
    if cost is not None and cost.amount.high > 0:  # owned hardware without a price of electricity costs nothing
        text += f", for {cost_words(cost)}"
    return f"{text}."


def _lengths_unknown(answer: Recommendation) -> bool:
    """Whether nothing is known of the lengths of the rows, so that the lower end of the time is that of short ones."""
    profile = answer.inputs.profile
    return profile is not None and not profile.total_tokens and not profile.token_lengths


def _speed(answer: Recommendation) -> str:
    """Whether the speed of a CPU was measured, in words; empty for a GPU, whose speed the catalog knows."""
    if not answer.inputs.on_cpu or answer.recipe is None:
        return ""
    rates, cores = answer.inputs.matrix_rates, answer.inputs.hardware.cpu.cores
    if rate := measured_rate(rates, answer.recipe.spec):
        return f" at its measured {rate / 1e12:.2g} TFLOP/s"
    return f" at the assumed speed of {cores} cores" if cores else " at an assumed speed, since its cores are unknown"


def _renting(answer: Recommendation) -> str:
    """First offer to rent."""
    found = next((item for item in answer.cautions if item.code == RENT), None)
    return f"To rent: {found.message}." if found is not None else ""


def _caution(answer: Recommendation) -> str:
    """The most important caution."""
    told = [item for item in answer.cautions if item.code not in _ELSEWHERE]
    if answer.ways_out and answer.decision.method is None:
        told = [item for item in told if item.code != "NOTHING_FITS"]
    found = next((item for item in told if item.code not in _UNKNOWN), told[0] if told else None)
    return f"Caution: {found.message}." if found is not None and found.code not in MISSING_EVIDENCE else ""


def _sharpening(answer: Recommendation) -> str:
    """Without an estimate: unknown inputs of which at least half of the answers would change the verdict."""
    asked = [
        _QUESTIONS[gap.field_path] for gap in answer.gaps if gap.share >= _MATTERS and gap.field_path in _QUESTIONS
    ]
    if not asked or answer.estimate is not None:
        return ""
    *rest, last = asked
    words = f"{', '.join(rest)} and {last}" if rest else last
    return f"For a more certain answer, state {words}."
