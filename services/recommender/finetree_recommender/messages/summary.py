# SPDX-License-Identifier: Apache-2.0
"""A recommendation in plain words: one line, and a paragraph for people who know nothing of the rules."""

from collections.abc import Iterator

from finetree_recommender.decision.fit import GIB
from finetree_recommender.estimator.values import Priced
from finetree_recommender.explain.cautions import MISSING_EVIDENCE
from finetree_recommender.explain.counterfactuals import Counterfactual
from finetree_recommender.explain.reasons import LEAF_WORDS
from finetree_recommender.explain.rental_offers import RENT
from finetree_recommender.formatting import money, ranged, scaled, time
from finetree_recommender.method import Method
from finetree_recommender.recommend import Recommendation
from finetree_recommender.request.hardware import NOT_SUPPORTED
from finetree_recommender.rule_pack.answers import CPU

UPGRADE_WORDS = "upgrade GPU first"
"""What the playbook says below 8 GB (L268)."""
_MOST_CHANGES = 2
_REMARKS = ("DATASET_UNKNOWN", "MODEL_SIZE_UNKNOWN", "LENGTHS_UNKNOWN")
"""Cautions that say what is not known, rather than what could go wrong: told only where nothing could."""
_ELSEWHERE = (RENT, NOT_SUPPORTED, "SERVING_NOTE")
"""Cautions that are told in other sentences, or beside the paragraph."""
_UNKNOWN = (*MISSING_EVIDENCE, *_REMARKS)
_INPUTS = {
    "hardware": "on {}",
    "budget_per_month": "with a budget of {}",
    "quality": "if {} quality were asked for",
    "time": "with {} of time",
    "tasks": "for {} tasks",
    "max_duration": "with a time limit of {}",
    "budget_per_run": "with {} for a run",
    "task_count": "for {}",
    "dataset_profile.examples": "with {}",
    "task_domain": "for a task of {}",
    "use_case": "for {} use",
}
"""How a change of an input is told, by its field."""
_QUESTIONS = {
    "hardware": "what there is to train on",
    "budget_per_month": "what it may cost",
    "quality": "how good it must be",
    "time": "how long a run may take",
    "tasks": "how many tasks there are",
}
"""What an unknown input asks, by its field."""
_SENTENCES = {
    "MOST_VOTES": "your answers speak for it more than for any other method{runnable}",
    "TREE_LEAF": "it is the usual choice where nothing speaks for another method",
    "TIE_BREAK": "your answers speak as much for another method, and between the two the rules take this one",
    "MULTI_TASK": "it is made for many different tasks over one model",
    "FITS_HERE": "the rules prefer {preferred}, which does not fit into the memory, and this one does",
    "OTHERS_DO_NOT_FIT": "the rules prefer {preferred}, which does not fit into the memory",
}
"""Why a method is taken, by the code of the reason that won."""
_MATTERS = 0.5
"""Share of an unknown input's answers that would change the verdict, from which on it is asked for."""


def headline(answer: Recommendation) -> str:
    """The verdict in one line."""
    foreign = answer.inputs.device.unsupported
    return f"{foreign} is not supported yet; on {_other_device(answer)}: {_line(answer)}" if foreign else _line(answer)


def _line(answer: Recommendation) -> str:
    method = answer.decision.method
    if method is None and _unknown(answer):
        return "Say how much memory there is: it decides what trains here"
    if method is None:
        return "Upgrade the hardware: nothing was shown to train here"
    title = answer.pack.card(method).title
    if answer.decision.upgrade_advised:
        return f"{title}: it trains here, although {answer.pack.rules.gate.speaker} would upgrade the GPU first"
    return f"{title}: {answer.methods[0].reasons[0].message}"


def paragraph(answer: Recommendation) -> str:
    """The whole answer for people: method and why, what it takes, what to beware of, and what would change it."""
    parts = (_foreign, _verdict, _figures, _renting, _caution, _changes, _others, _sharpening, _sure)
    return " ".join(text for text in (part(answer) for part in parts) if text)


def _foreign(answer: Recommendation) -> str:
    """That the answer is for another device than was named, where that is not supported."""
    foreign = answer.inputs.device.unsupported
    return f"{foreign} is not supported yet: what follows holds for {_other_device(answer)}." if foreign else ""


def _verdict(answer: Recommendation) -> str:
    method = answer.decision.method
    if method is None and _unknown(answer):
        return f"What trains on {_device(answer)} is decided by its memory, which is not known."
    if method is None:
        return f"{_words(answer)}: nothing was shown to train on {_device(answer)}."
    title = answer.pack.card(method).title
    if answer.decision.upgrade_advised:
        shown = "by the estimate it trains this model all the same"
        return f'For {_device(answer)} the playbook says "{UPGRADE_WORDS}"; use {title}: {shown}.'
    return f"Use {title}: {_why(answer)}."


def _other_device(answer: Recommendation) -> str:
    """A supported device of the same memory, in words."""
    gb = answer.inputs.device.gb
    return "a supported GPU" if gb is None else f"a supported GPU of {gb:g} GB"


def _unknown(answer: Recommendation) -> bool:
    """Whether nothing is known of what fits, rather than that nothing does."""
    return any(item.code == "FIT_UNKNOWN" for item in answer.cautions)


def _words(answer: Recommendation) -> str:
    """What the rules say where nothing trains."""
    choice = answer.decision.choice
    if _below_class(answer):
        return f'The playbook\'s words are "{UPGRADE_WORDS}", and they hold'
    if choice.method is None:
        return "Upgrade"
    return f"Upgrade, although {answer.pack.rules.id} says {answer.pack.card(choice.method).title}"


def _below_class(answer: Recommendation) -> bool:
    memory = answer.inputs.answers.memory
    classes = {item.key for item in answer.pack.rules.gate.classes if item.upgrade}
    return memory == CPU or memory in classes


def _why(answer: Recommendation) -> str:
    """One sentence, by the reason that won."""
    reason = answer.methods[0].reasons[0]
    choice = answer.decision.choice
    questions = len(answer.pack.rules.questions)
    if reason.code == "MOST_VOTES" and choice.ballot.unanswered == questions - 1 and answer.inputs.hardware_known:
        return f"it is what the rules recommend for {_device(answer)}"
    if reason.code == "TREE_LEAF" and reason.message != LEAF_WORDS:
        return reason.message
    if reason.code == "MULTI_TASK" and answer.decision.method is not Method.ADAPTER:
        return "many different tasks over one model take one small file each by it"
    sentence = _SENTENCES.get(reason.code)
    if sentence is None:
        return reason.message
    preferred = answer.pack.card(choice.method).title if choice.method is not None else "what the rules prefer"
    runnable = " that this hardware can run" if answer.inputs.hardware_known else ""
    return sentence.format(preferred=preferred, runnable=runnable)


def _device(answer: Recommendation) -> str:
    """The hardware in words; "a machine without a GPU" for a CPU."""
    hardware = answer.inputs.hardware
    device = hardware.WhichOneof("device")
    count = f"each of {hardware.count} " if hardware.count > 1 else ""
    if device == "cpu":
        return "a machine without a GPU"
    if device == "accelerator":
        return f"{count}{hardware.accelerator}" if count else f"the {hardware.accelerator}"
    gb = answer.inputs.marketed_gb
    if gb is None:
        return "this hardware"
    return f"{count}GPUs of {gb:g} GB" if count else f"a GPU of {gb:g} GB"


def _figures(answer: Recommendation) -> str:
    quality = answer.methods[0].figures.quality_percent
    if answer.decision.method is None:
        return ""
    takes = _unpriced(answer) if answer.priced is None else _priced(answer, answer.priced)
    if answer.decision.method is Method.FULL:  # the measure itself
        return takes
    return f"Expect {ranged(quality, '.0f')} percent of the quality of full fine-tuning. {takes}"


def _unpriced(answer: Recommendation) -> str:
    """Why there are no figures; the rules' own are quoted beside the methods."""
    code = next((item.code for item in answer.cautions if item.code in MISSING_EVIDENCE), "")
    because = {
        "ESTIMATOR_UNAVAILABLE": "the estimator did not answer",
        "MODEL_NOT_PRICED": "the model's size is not known",
        "HARDWARE_UNKNOWN": "the hardware is not known",
        "MEMORY_UNKNOWN": "its memory is not known",
        "MODEL_UNKNOWN": "the model is not known",
    }.get(code, "the estimator has none")
    return f"What it takes is not estimated, since {because}."


def _priced(answer: Recommendation, priced: Priced) -> str:
    memory = f"{scaled(priced.device_bytes, GIB)} GiB of the {priced.usable_bytes / GIB:,.1f} that"
    text = f"It takes {memory} {_device(answer)} offers"
    if priced.total_seconds is None:
        return f"{text}; for time and cost, say how many rows there are."
    text += f", and {time(priced.total_seconds)}"
    cost = priced.cost
    if cost is not None and cost.amount.high > 0:  # owned hardware without a price of electricity costs nothing
        text += f", for {money(cost.amount)} {cost.currency_code}"
    return f"{text}."


def _renting(answer: Recommendation) -> str:
    """What to rent first."""
    found = next((item for item in answer.cautions if item.code == RENT), None)
    return f"To rent: {found.message}." if found is not None else ""


def _caution(answer: Recommendation) -> str:
    told = [item for item in answer.cautions if item.code not in _ELSEWHERE]
    found = next((item for item in told if item.code not in _UNKNOWN), told[0] if told else None)
    return f"Beware: {found.message}." if found is not None and found.code not in MISSING_EVIDENCE else ""


def _changes(answer: Recommendation) -> str:
    changes = [_change(answer, flip) for flip in _first_of_each(answer)]
    return f"By the rules it would be {', and '.join(changes)}." if changes else ""


def _first_of_each(answer: Recommendation) -> Iterator[Counterfactual]:
    """The nearest changes, each to another method."""
    told: set[Method] = set()
    for flip in answer.counterfactuals:
        if flip.method is not None and flip.method not in told and len(told) < _MOST_CHANGES:
            told.add(flip.method)
            yield flip


def _change(answer: Recommendation, flip: Counterfactual) -> str:
    title = answer.pack.card(flip.method).title if flip.method is not None else "nothing"
    return f"{title} {_turned(flip.field_path, flip.to_value)}"


def _turned(field_path: str, value: str) -> str:
    """Another value of an input, in words."""
    words = value.partition(" (")[0].replace("_", " ")
    return _INPUTS[field_path].format(words) if field_path in _INPUTS else f"with {field_path} {words}"


def _others(answer: Recommendation) -> str:
    """Where another pack says otherwise."""
    parts = []
    for other in answer.others:
        if other.method is not answer.decision.method:
            says = answer.pack.card(other.method).title if other.method is not None else "to upgrade"
            parts.append(f"The rules of {other.pack.rules.id} say {says} instead.")
    return " ".join(parts)


def _sharpening(answer: Recommendation) -> str:
    """What to say next, where half of the possible answers and more would change the verdict."""
    asked = [
        _QUESTIONS[gap.field_path] for gap in answer.gaps if gap.share >= _MATTERS and gap.field_path in _QUESTIONS
    ]
    if not asked:
        return ""
    *rest, last = asked
    words = f"{', '.join(rest)} and {last}" if rest else last
    return f"To be surer, say {words}."


def _sure(answer: Recommendation) -> str:
    return f"Confidence: {answer.confidence.level.lower()}, by the rules of {answer.pack.rules.id}."
