# SPDX-License-Identifier: Apache-2.0
"""Which layout a row has, by the names of its columns; where two readings are possible, none is taken."""

from typing import Any

from finetree_data.columns.mapping import Mapping, by_lower, first
from finetree_data.columns.names import (
    ANSWERS,
    CHOSEN,
    CONTEXTS,
    CONVERSATIONS,
    EXAMINED,
    LABELS,
    PAIRS,
    QUESTIONS,
    RIGHT,
    SYSTEMS,
    TOOLS,
    VERDICTS,
)
from finetree_data.columns.suggestions import are_columns, has_choices, told
from finetree_data.options import Layout
from finetree_data.remarks import Remark

CHOSEN_LEARNED = Remark(
    "CHOSEN_ANSWERS_LEARNED", "Preference pairs: the chosen answers are learned, the rejected ones are left out."
)
BAD_ANSWERS_SKIPPED = Remark(
    "BAD_ANSWERS_SKIPPED", "Rows whose label is false are bad answers (as for KTO): they are left out."
)
FIRST_ANSWER_LEARNED = Remark("FIRST_ANSWER_LEARNED", "Of several answers to a question, the first one is learned.")


def guess(value: dict[str, Any]) -> Mapping | None:
    """The mapping by usual names; None where there are none, or two that exclude each other."""
    layout = layout_of(value)
    if layout is None:
        return None
    parts = usual(value, layout) | beside(value)
    learned = parts.get("completion", parts.get("turns", "")).lower().partition(".")[0]
    remarks = [CHOSEN_LEARNED] * ("chosen" in parts or learned in CHOSEN)
    verdict = first(by_lower(value), VERDICTS)
    if layout is not Layout.TEXT and isinstance(value.get(verdict), bool):
        parts, remarks = parts | {"verdict": verdict}, [*remarks, BAD_ANSWERS_SKIPPED]
    if parts.get("completion") == "answers.text.0":
        remarks.append(FIRST_ANSWER_LEARNED)
    return Mapping(layout, parts, remarks=tuple(remarks))


def layout_of(value: dict[str, Any]) -> Layout | None:
    """The layout by usual names; None where they tell none."""
    if are_columns(value):
        return None
    names = by_lower(value)
    turns = _turns(value)
    if turns:
        return Layout.SHAREGPT if _speaks_sharegpt(value.get(turns)) else Layout.CHAT
    asked, answered = _pair(value)
    if answered:
        return Layout.INSTRUCTION if asked.lower() == "instruction" else Layout.PROMPT_COMPLETION
    if "text" in names and not {*LABELS, *QUESTIONS} & set(names) and not told(value):
        return Layout.TEXT
    return None


def _turns(value: dict[str, Any]) -> str:
    names = by_lower(value)
    if isinstance(value.get("input"), dict) and "messages" in value["input"]:  # OpenAI's preference pairs
        return "input.messages"
    found = first(names, CONVERSATIONS)
    # Some names are those of a talk that is one text, too: SAMSum's "dialogue".
    certain = found.lower() in CONVERSATIONS[:2]
    if found and (certain or value[found] is None or isinstance(value[found], list) or _is_talk(value[found])):
        return found
    if _is_strings(value.get("data")):  # UltraChat
        return "data"
    alone = first(names, CHOSEN)
    if alone and isinstance(value[alone], dict) and "messages" in value[alone]:  # Fireworks' preference pairs
        return f"{alone}.messages"
    if alone and not first(names, QUESTIONS) and not isinstance(value[alone], dict):
        # A whole conversation: as turns, or as a transcript that names who speaks.
        whole = not isinstance(value[alone], str) or value[alone].lstrip().startswith("Human:")
        return alone if whole else ""
    # Baize: a transcript under the name of a question, with nothing beside it that could be an answer.
    return names["input"] if "[|Human|]" in str(value.get(names.get("input", ""), ""))[:2000] else ""


def _pair(value: dict[str, Any]) -> tuple[str, str]:
    """The columns of a question and its answer; empty names where there is no such pair."""
    names = by_lower(value)
    asked, answered = first(names, QUESTIONS), first(names, ANSWERS) or first(names, CHOSEN)
    if asked and answered and asked != answered:
        return (asked, answered) if _is_meant(answered, names) else ("", "")
    found = (pair for pair in PAIRS if pair[0] in names and pair[1] in names and _is_meant(pair[1], names))
    pair = next(found, None)
    if pair is not None:
        return names[pair[0]], names[pair[1]]
    if {"query", "answers", "tools"} <= set(names):  # xLAM, whose answers are calls
        return names["query"], names["answers"]
    answers = value.get(names.get("answers", ""))
    is_squad = {"question", "context", "answers"} <= set(names) and (answers is None or _is_squad(answers))
    return (names["question"], "answers.text.0") if is_squad else ("", "")


def _is_meant(answered: str, names: dict[str, str]) -> bool:
    """Whether this answer is the one to learn."""
    answered = answered.lower()
    # A letter, or the place of a choice: without the choices it means nothing.
    if has_choices(names) and (answered == "answer" or not {"choices", "options"} & set(names)):
        return False
    # A model's answer under examination, beside the right one.
    right = {*RIGHT, "reference"} if answered == "response" else set(RIGHT)
    return answered not in EXAMINED or not right & set(names)


def _is_squad(answers: Any) -> bool:
    return isinstance(answers, dict) and isinstance(answers.get("text"), list)


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(item, str) for item in value)


def _is_talk(value: Any) -> bool:
    """Whether a text is turns: as JSON, or as Glaive marks them."""
    return isinstance(value, str) and value.lstrip().startswith(("[", "USER:"))


def _speaks_sharegpt(turns: Any) -> bool:
    if isinstance(turns, list):
        return bool(turns) and isinstance(turns[0], dict) and "from" in turns[0] and "role" not in turns[0]
    return isinstance(turns, str) and '"from"' in turns[:200]


def usual(value: dict[str, Any], layout: Layout) -> dict[str, str]:
    """The columns that a layout cannot do without, by their usual names, whether they are there or not."""
    names = by_lower(value)
    if layout in (Layout.CHAT, Layout.SHAREGPT):
        turns = _turns(value) or "messages"
        chosen = first(names, CHOSEN)
        return {"turns": turns} | ({"chosen": chosen} if chosen and chosen != turns.partition(".")[0] else {})
    if layout is Layout.TEXT:
        return {"text": names.get("text", "text")}
    asked, answered = _pair(value)
    asked = asked or first(names, QUESTIONS) or ("instruction" if layout is Layout.INSTRUCTION else "prompt")
    parts = {"prompt": asked, "completion": answered or first(names, ANSWERS) or "completion"}
    # "context" beside a question is what the question is about; "input" is, beside an instruction.
    contexts = CONTEXTS if layout is Layout.INSTRUCTION else CONTEXTS[1:]
    context = first(names, contexts) or contexts[0]
    return parts | ({"context": context} if context not in parts.values() else {})


def beside(value: dict[str, Any]) -> dict[str, str]:
    """Columns beside the turns, or a question and its answer; later rows may have them where this one has not."""
    names = by_lower(value)
    found = {"system": first(names, SYSTEMS) or "system", "tools": first(names, TOOLS) or "tools"}
    return found if _turns(value) else found | {"history": names.get("history", "history")}
