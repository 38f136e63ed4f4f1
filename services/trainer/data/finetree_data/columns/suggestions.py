# SPDX-License-Identifier: Apache-2.0
"""Advice for rows whose columns show no format: a mapping that would read them, where there is one."""

import re
from collections.abc import Collection, Iterator
from typing import Any

from finetree_data.columns.mapping import by_lower, first_of, list_columns, lookup, quoted
from finetree_data.columns.names import CHOICE, CONVERSATIONS, EXAMINED, LABELS, QUESTIONS, RIGHT
from finetree_data.errors import RowError

_KEYS = ("answerkey", "answer_key", "correct_answer", "cop", "<ans>")
"""Names of the index of the right choice (ARC; MedMCQA; CPM-Bee)."""
_COMPARED = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_a", "sentence_b"), ("text_a", "text_b"))
"""Names of two texts that a label is about (SNLI; GLUE)."""


def has_choices(names: Collection[str]) -> bool:
    """Return whether columns hold choices: all of them in one, or one each."""
    return bool({"choices", "options"} & set(names)) or sum(bool(CHOICE.fullmatch(name)) for name in names) > 2


def other_answers(names: dict[str, str], right: str) -> list[str]:
    """Return the columns beside the right answer that may be an answer too, by a word in their names."""
    return [
        column
        for name, column in names.items()
        if column != right and any(answer in name for answer in (*EXAMINED, "solution", "rationale", "reasoning"))
    ]


def is_transposed_table(value: dict[str, Any]) -> bool:
    """Return whether a row is a transposed table: each value is a list of as many texts."""
    sizes = {len(item) if isinstance(item, list) and _are_texts(item) else 0 for item in value.values()}
    # Chinese-Vicuna's are a talk's questions and answers.
    return len(value) > 1 and len(sizes) == 1 and sizes.pop() > 1 and set(value) != {"input", "output"}


def _are_texts(items: list[Any]) -> bool:
    return all(isinstance(item, str) for item in items)


def advice_for(value: dict[str, Any]) -> str:
    """Advice for a known kind of file that cannot be read as it is; "" for others."""
    by = by_lower(value)
    names = set(by)
    if "input_ids" in names:
        return "it is tokenized already; use the text it was made from"
    if "role" in names and names & {"text", "content"} and not names & set(CONVERSATIONS):
        return "each row is one message; join the messages of a conversation, or of a branch, into one row"
    if is_transposed_table(value):
        return "each is a list of as many texts, like the columns of a table; write one object per row"
    return _mapped(value, by) or _chosen(names)


def _mapped(value: dict[str, Any], by: dict[str, str]) -> str:
    """Advice where the user has to choose what is learned."""
    if {"question", "response_j", "response_k"} <= set(by):  # Stack Exchange's pairs
        return "to learn the better answers, map columns {prompt: question, completion: response_j}"
    languages = value.get("translation")
    if isinstance(languages, dict) and len(languages) == 2:  # OPUS, WMT
        one, other = languages
        return f"for this direction, map columns {{prompt: translation.{one}, completion: translation.{other}}}"
    label = first_of(by, (*LABELS, "gold_label"))
    for one, other in _COMPARED if label else ():
        if {one, other} <= set(by):
            parts = f"prompt: {by[one]}, input: {by[other]}, completion: {label}"
            return f"to learn the label of the two texts, map columns {{{parts}}}"
    asked, right = first_of(by, QUESTIONS), first_of(by, (*RIGHT, "reference"))
    examined = first_of(by, EXAMINED) or next(iter(other_answers(by, right)), "")
    if asked and examined and right:
        one, other = (f"columns {{prompt: {quoted(asked)}, completion: {quoted(it)}}}" for it in (right, examined))
        return f"it has two answers; map {one} to learn the right one, or {other} to learn the other"
    return ""


def _chosen(names: set[str]) -> str:
    if has_choices(names) and names & {*LABELS, *_KEYS}:
        return (
            "the answer is the index of a choice; write rows with the question, its choices and the answer's text, or "
            "name the column in columns.choices to evaluate on them"
        )
    return ""


def unknown_columns(value: dict[str, Any]) -> RowError:
    """Build the error for a row whose columns show no format, with a mapping of its own columns."""
    lacks = "completion" if "prompt" in value and "completion" not in value else ""
    needed = '"messages" or "conversations", "prompt" and "completion", "instruction" and "output", or "text"'
    text = f"{'is missing' if lacks else f'needs {needed}'}; its columns are: {list_columns(value)}"
    known = advice_for(value)
    if known:
        return RowError(lacks, f"{text}: {known}")
    if max((len(str(name)) for name in value), default=0) > 60:
        return RowError(lacks, f"{text}; the first line of a table has to name its columns")
    return RowError(lacks, f"{text}; name yours, such as {_example(value)}")


def _example(value: dict[str, Any]) -> str:
    """A mapping of the row's most likely texts."""
    texts = {path: name for path, name in _texts(value) if not _NAMES_ITS_ROW.search(name)}
    asked = _likeliest(texts, (*QUESTIONS, "user", *_PLAIN))
    answered = _likeliest({path: name for path, name in texts.items() if path != asked}, LABELS)
    rest = [path for path in texts if path not in (asked, answered)]
    if not asked and answered:
        asked = max(rest, key=lambda path: len(str(lookup(value, path))), default="")
    asked = asked or next(iter(rest), "")
    # A text beside a question may be its answer, or all there is to learn.
    beside = next((path for path in rest if texts[path] == "text" and path != asked), "")
    if beside and texts.get(answered) not in LABELS:
        answered = beside
    answered = answered or next((path for path in rest if path != asked), "")
    if asked and answered:
        pair = f"columns {{prompt: {quoted(asked)}, completion: {quoted(answered)}}}"
        plain = asked if texts[asked] in _PLAIN else beside
        if plain:
            return f"{pair} to learn the {answered}, or columns {{text: {quoted(plain)}}} to learn the text"
        return pair
    return f"columns {{text: {quoted(asked)}}}" if asked else "columns {prompt: …, completion: …}"


_PLAIN = ("text", "document", "content", "body")
"""Names of what may be plain text, whatever columns are beside it."""

_NAMES_ITS_ROW = re.compile(r"(?:^|_|\W)(?:id|uid|uuid|idx|index|url|hash|date|time|source|path)$")


def _texts(value: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Paths of a row's texts, and of what may be a question's turns; each with its lower-case name."""
    for key, item in value.items():
        if isinstance(item, dict) and "." not in key:
            yield from ((f"{key}.{name}", name.lower()) for name, inner in item.items() if isinstance(inner, str))
        elif _may_be_text(key, item):
            yield key, key.lower()


def _may_be_text(key: str, item: Any) -> bool:
    if isinstance(item, int | float):
        return key.lower() in LABELS  # a class by its number
    # Of a table's columns only the names may be known.
    return (
        item is None or (isinstance(item, str) and bool(item.strip())) or (key == "prompt" and isinstance(item, list))
    )


def _likeliest(texts: dict[str, str], wanted: tuple[str, ...]) -> str:
    """The path whose name is one of the wanted ones, or contains one; the most certain first."""
    whole = (path for name in wanted for path, found in texts.items() if found == name)
    part = (path for name in wanted for path, found in texts.items() if name in found)
    return next(whole, "") or next(part, "")
