# SPDX-License-Identifier: Apache-2.0
"""Detects the format of a row by the names of its columns; where two are possible, none is chosen."""

from typing import Any

from finetree_data.columns.mapping import Mapping, by_lower, first_of
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
    THOUGHTS,
    TOOLS,
)
from finetree_data.columns.speakers import speakers_of
from finetree_data.columns.suggestions import advice_for, has_choices, is_transposed_table, other_answers
from finetree_data.columns.template_marks import rendered_by
from finetree_data.options import RowFormat
from finetree_data.remarks import Remark

TRANSCRIPT_HEAD = 1_000
"""Characters of a text in which speakers are looked for."""

CHOSEN_LEARNED = Remark(
    "CHOSEN_ANSWERS_LEARNED", "Preference pairs: the chosen answers are learned, the rejected ones are skipped."
)
FIRST_ANSWER_LEARNED = Remark("FIRST_ANSWER_LEARNED", "Of several answers to a question, the first one is learned.")


def detect_mapping(value: dict[str, Any]) -> Mapping | None:
    """Detect the mapping by usual names; None where there are none, or two that exclude each other."""
    row_format = detect_row_format(value)
    if row_format is None:
        return None
    parts = usual_columns(value, row_format) | extra_columns(value)
    learned = parts.get("completion", parts.get("turns", "")).lower().partition(".")[0]
    remarks = [CHOSEN_LEARNED] * ("chosen" in parts or learned in CHOSEN)
    if parts.get("completion") == "answers.text.0":
        remarks.append(FIRST_ANSWER_LEARNED)
    return Mapping(row_format, parts, remarks=tuple(remarks))


def detect_row_format(value: dict[str, Any]) -> RowFormat | None:
    """Detect the row format by usual names; None where they show none."""
    if is_transposed_table(value):
        return None
    names = by_lower(value)
    turns = _turns(value)
    if turns:
        return RowFormat.SHAREGPT if _speaks_sharegpt(value.get(turns)) else RowFormat.CHAT
    asked, answered = _pair(value)
    if answered:
        return RowFormat.INSTRUCTION if asked.lower() == "instruction" else RowFormat.PROMPT_COMPLETION
    if "text" in names and not {*LABELS, *QUESTIONS} & set(names) and not advice_for(value):
        return RowFormat.TEXT
    return None


def _turns(value: dict[str, Any]) -> str:
    names = by_lower(value)
    if isinstance(value.get("input"), dict) and "messages" in value["input"]:  # OpenAI's preference pairs
        return "input.messages"
    found = first_of(names, CONVERSATIONS)
    # Some names also mean a conversation in one text: SAMSum's "dialogue".
    certain = found.lower() in CONVERSATIONS[:2]
    # With an answer beside it, the conversation is what the answer is about.
    paired = any(one == found.lower() and other in names for one, other in PAIRS)
    spoken = found and (value[found] is None or isinstance(value[found], list) or _is_conversation(value[found]))
    if found and (certain or (spoken and not (paired and isinstance(value[found], str)))):
        return found
    if _is_strings(value.get("data")):  # UltraChat
        return "data"
    alone = first_of(names, CHOSEN)
    if alone and isinstance(value[alone], dict) and "messages" in value[alone]:  # Fireworks' preference pairs
        return f"{alone}.messages"
    if alone and not first_of(names, QUESTIONS) and not isinstance(value[alone], dict):
        # A whole conversation: as turns, or as a transcript with the speakers' names.
        whole = not isinstance(value[alone], str) or value[alone].lstrip().startswith("Human:")
        return alone if whole else ""
    return _turns_in_text(value, names)


def _turns_in_text(value: dict[str, Any], names: dict[str, str]) -> str:
    """The column of a conversation that is one text with marks; "" for none."""
    # Baize: a transcript under the name of a question, with nothing beside it that could be an answer.
    if "[|Human|]" in str(value.get(names.get("input", ""), ""))[:2000]:
        return names["input"]
    text = names.get("text", "")
    return text if rendered_by(value.get(text)) and not {*LABELS, *QUESTIONS} & set(names) else ""


def _pair(value: dict[str, Any]) -> tuple[str, str]:
    """The columns of a question and its answer; "" where there is no such pair."""
    names = by_lower(value)
    asked, answered = first_of(names, QUESTIONS), first_of(names, ANSWERS) or first_of(names, CHOSEN)
    if asked and answered and asked != answered:
        return (asked, answered) if _is_meant(answered, names) else ("", "")
    right = first_of(names, RIGHT)
    if asked and right and not has_choices(names) and not other_answers(names, right):
        return asked, right
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
    """Return whether this answer is the one to learn."""
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


def _is_conversation(value: Any) -> bool:
    """Return whether a text is a conversation: as JSON, or as Glaive marks turns."""
    return isinstance(value, str) and (
        value.lstrip().startswith(("[", "USER:")) or len(set(speakers_of(value[:TRANSCRIPT_HEAD]))) > 1
    )


def _speaks_sharegpt(turns: Any) -> bool:
    if isinstance(turns, list):
        return bool(turns) and isinstance(turns[0], dict) and "from" in turns[0] and "role" not in turns[0]
    return isinstance(turns, str) and '"from"' in turns[:200]


def usual_columns(value: dict[str, Any], row_format: RowFormat) -> dict[str, str]:
    """Usual names of the columns that a row format needs, whether the row has them or not."""
    names = by_lower(value)
    if row_format in (RowFormat.CHAT, RowFormat.SHAREGPT):
        turns = _turns(value) or "messages"
        chosen = first_of(names, CHOSEN)
        return {"turns": turns} | ({"chosen": chosen} if chosen and chosen != turns.partition(".")[0] else {})
    if row_format is RowFormat.TEXT:
        return {"text": names.get("text", "text")}
    asked, answered = _pair(value)
    asked = asked or first_of(names, QUESTIONS) or ("instruction" if row_format is RowFormat.INSTRUCTION else "prompt")
    parts = {"prompt": asked, "completion": answered or first_of(names, ANSWERS) or "completion"}
    # "context" beside a question is what the question is about; "input" is, beside an instruction.
    contexts = CONTEXTS if row_format is RowFormat.INSTRUCTION else CONTEXTS[1:]
    context = first_of(names, contexts) or contexts[0]
    return parts | ({"context": context} if context not in parts.values() else {})


def extra_columns(value: dict[str, Any]) -> dict[str, str]:
    """Columns beside a conversation, or a question and its answer; later rows may have them if this one has not."""
    names = by_lower(value)
    found = {"system": first_of(names, SYSTEMS) or "system", "tools": first_of(names, TOOLS) or "tools"}
    if _turns(value):
        return found
    return found | {"history": names.get("history", "history"), "thought": first_of(names, THOUGHTS) or THOUGHTS[0]}
