# SPDX-License-Identifier: Apache-2.0
"""Recommendation in plain words: a headline and a paragraph."""

from collections.abc import Iterator

from finetree_recommender.decision.fit import GIB
from finetree_recommender.estimator.values import Estimate
from finetree_recommender.explain.cautions import MISSING_EVIDENCE
from finetree_recommender.explain.counterfactuals import Counterfactual
from finetree_recommender.explain.reasons import LEAF_WORDS
from finetree_recommender.explain.rental_offers import RENT
from finetree_recommender.explain.ways_out.questions import Kind
from finetree_recommender.formatting import gpu, money, ranged, scaled, time
from finetree_recommender.method import Method
from finetree_recommender.recommend import Recommendation
from finetree_recommender.request.hardware import NOT_SUPPORTED
from finetree_recommender.rule_pack.answers import CPU

UPGRADE_WORDS = "upgrade GPU first"
"""Playbook's words for GPUs below 8 GB (L268)."""
_MOST_CHANGES = 2
_REMARKS = ("DATASET_UNKNOWN", "MODEL_SIZE_UNKNOWN", "LENGTHS_UNKNOWN")
"""Cautions about missing inputs rather than risks: quoted only where there is no risk."""
_ELSEWHERE = (RENT, NOT_SUPPORTED, "SERVING_NOTE")
"""Cautions that have a sentence of their own, or stand beside the paragraph."""
_UNKNOWN = (*MISSING_EVIDENCE, *_REMARKS)
_CONDITIONS = {
    "hardware": "With {}",
    "budget_per_month": "With a budget of {}",
    "quality": "If {} quality is needed,",
    "time": "If {} are available,",
    "tasks": "For {} tasks",
    "max_duration": "With a time limit of {}",
    "budget_per_run": "With a budget of {} for a run",
    "task_count": "For {}",
    "dataset_profile.examples": "With {}",
    "task_domain": "For the task domain {}",
    "use_case": "For {} use",
    "experience": "With {} experience",
}
"""Beginning of a sentence on another value of an input, by its field."""
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
    "TIE_BREAK": "your answers favor another method equally, and the rules prefer this one of the two",
    "MULTI_TASK": "it is made for many different tasks on one base model",
    "FITS_HERE": "the rules prefer {preferred}, which does not fit in memory; this method does",
    "OTHERS_DO_NOT_FIT": "the rules prefer {preferred}, which does not fit in memory",
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
    if method is None and _unknown(answer):
        return "State the memory of the hardware: it decides which methods can train"
    if method is None and answer.ways_out:
        return f"Nothing trains here as asked: {answer.ways_out[0].message}"
    if method is None:
        return "Upgrade the hardware: no method was shown to fit"
    title = answer.pack.card(method).title
    if answer.cautions and answer.cautions[0].code == "ROWS_CUT":
        return f"{title}, but {answer.cautions[0].message}"
    if answer.decision.upgrade_advised:
        speaker = answer.pack.rules.gate.speaker
        return f"{title}: it fits by the estimate, although {speaker} advises to upgrade the GPU first"
    return f"{title}: {answer.methods[0].reasons[0].message}"


def paragraph(answer: Recommendation) -> str:
    """Write the whole answer: method and why, what it needs, the main caution, and what would change it."""
    parts = (_foreign, _verdict, _figures, _renting, _caution, _changes, _others, _sharpening, _sure)
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
    title = answer.pack.card(method).title
    if answer.decision.upgrade_advised:
        advice = f'For {_device(answer)} the playbook says "{UPGRADE_WORDS}"'
        return f"{advice}; by the estimate {title} trains this model on it all the same."
    return f"Use {title}: {_why(answer)}."


def _nothing_trains(answer: Recommendation) -> str:
    fits = f"no method was shown to fit {_device(answer)}"
    if answer.ways_out:
        return f"Nothing trains here as asked, since {fits}. What would: {'; or '.join(_ways(answer))}."
    choice = answer.decision.choice
    if _below_class(answer):
        return f'The playbook says "{UPGRADE_WORDS}", and {fits}.'
    if choice.method is None:
        return f"Upgrade the hardware: {fits}."
    title, name = answer.pack.card(choice.method).title, answer.pack.rules.id
    return f"Upgrade the hardware: {name} prefers {title}, but {fits}."


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
    if reason.code == "TREE_LEAF" and reason.message != LEAF_WORDS:
        return reason.message
    if reason.code == "MULTI_TASK" and answer.decision.method is not Method.ADAPTER:
        return "with many different tasks on one base model, each task adds one small file"
    sentence = _SENTENCES.get(reason.code)
    if sentence is None:
        return reason.message
    preferred = answer.pack.card(choice.method).title if choice.method is not None else "another method"
    runnable = " that this hardware can run" if answer.inputs.hardware_known else ""
    return sentence.format(preferred=preferred, runnable=runnable)


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


def _figures(answer: Recommendation) -> str:
    quality = answer.methods[0].figures.quality_percent
    if answer.decision.method is None:
        return ""
    needs = _not_estimated(answer) if answer.estimate is None else _estimated(answer, answer.estimate)
    if answer.decision.method is Method.FULL:  # the measure itself
        return needs
    return f"Expect {ranged(quality, '.0f')} percent of the quality of full fine-tuning. {needs}"


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
    available = f"{estimate.usable_bytes / GIB:,.1f} GiB available on {_device(answer)}"
    text = f"It needs {scaled(estimate.device_bytes, GIB)} of the {available}"
    if estimate.total_seconds is None:
        return f"{text}; state the number of rows for time and cost."
    text += f", and takes {time(estimate.total_seconds)}"
    cost = estimate.cost
    if cost is not None and cost.amount.high > 0:  # owned hardware without a price of electricity costs nothing
        text += f" at a cost of {money(cost.amount)} {cost.currency_code}"
    return f"{text}."


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


def _changes(answer: Recommendation) -> str:
    """The nearest changes of an input that lead to other methods."""
    return " ".join(_change(answer, flip) for flip in _first_of_each(answer))


def _first_of_each(answer: Recommendation) -> Iterator[Counterfactual]:
    """The nearest changes, each to another method."""
    told: set[Method] = set()
    for flip in answer.counterfactuals:
        if flip.method is not None and flip.method not in told and len(told) < _MOST_CHANGES:
            told.add(flip.method)
            yield flip


def _change(answer: Recommendation, flip: Counterfactual) -> str:
    title = answer.pack.card(flip.method).title if flip.method is not None else "nothing"
    value = flip.to_value.partition(" (")[0].replace("_", " ")
    condition = _CONDITIONS.get(flip.field_path, f"With {flip.field_path} {{}}").format(value)
    return f"{condition} the recommendation would be {title}."


def _others(answer: Recommendation) -> str:
    """Verdicts of other packs that differ."""
    parts = []
    for other in answer.others:
        if other.method is not answer.decision.method:
            method = answer.pack.card(other.method).title if other.method is not None else "a hardware upgrade"
            parts.append(f"The rule pack {other.pack.rules.id} recommends {method} instead.")
    return " ".join(parts)


def _sharpening(answer: Recommendation) -> str:
    """Unknown inputs of which at least half of the answers would change the verdict."""
    asked = [
        _QUESTIONS[gap.field_path] for gap in answer.gaps if gap.share >= _MATTERS and gap.field_path in _QUESTIONS
    ]
    if not asked:
        return ""
    *rest, last = asked
    words = f"{', '.join(rest)} and {last}" if rest else last
    return f"For a more certain answer, state {words}."


def _sure(answer: Recommendation) -> str:
    return f"Confidence: {answer.confidence.level.lower()}, by the rules of {answer.pack.rules.id}."
