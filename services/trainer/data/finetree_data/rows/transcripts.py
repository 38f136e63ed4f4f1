# SPDX-License-Identifier: Apache-2.0
"""Conversations that are written as one text, with the names of their speakers or with headings."""

import re

from finetree_data.columns.sections import turns_of
from finetree_data.columns.speakers import LABEL, SPEAKERS, speakers_of
from finetree_data.errors import RowError
from finetree_data.rows.row import Message
from finetree_data.rows.text import require_text

_MARKED_TURNS = (
    re.compile(r"(?:^|\n\n)(Human|Assistant): ?"),
    re.compile(r"\[\|(Human|AI)\|\]"),
    re.compile(r"(?:^|\n)(USER|ASSISTANT|FUNCTION RESPONSE): ?"),
)
"""Markers of speakers in conversations written as one text (HH-RLHF, Baize, Glaive)."""
_MARKS = {
    **dict.fromkeys(("Human", "USER"), "user"),
    **dict.fromkeys(("Assistant", "AI", "ASSISTANT"), "assistant"),
    "FUNCTION RESPONSE": "tool",
}

_ANY_LABEL = re.compile(r"\s*(?:\*\*)?([A-Z][\w .'-]{0,30}?)(?:\*\*)?\s*:\s")


def transcript(text: str, place: str) -> tuple[Message, ...]:
    """Parse a conversation in one text with markers of its speakers; no turns where it has no markers."""
    for marks in _MARKED_TURNS:
        pieces = marks.split(text)
        roles = [_MARKS[mark] for mark in pieces[1::2]]
        if "user" in roles and len(set(roles)) > 1:
            texts = [words.replace("<|endoftext|>", "").strip() for words in pieces[2::2]]  # Glaive's answers end so
            return _messages(list(zip(roles, texts, strict=True)), place)
    roles = speakers_of(text)
    if len(set(roles)) < 2:
        return _messages(turns_of(text), place)
    texts = [words.strip() for words in LABEL.split(text)[2::2]]
    return _messages(list(zip(roles, texts, strict=True)), place)


def _messages(turns: list[tuple[str, str]], place: str) -> tuple[Message, ...]:
    # Baize's transcripts end in the mark of a question that nobody asked.
    while turns and not turns[-1][1]:
        turns.pop()
    return tuple(Message(role, require_text(words, place)) for role, words in turns)


def labelled(turns: list[str], place: str) -> list[tuple[str, str]]:
    """Return (role, text) of turns that begin with the names of their speakers; none where they do not.

    Raises RowError for two names of which neither is known.
    """
    found = [LABEL.match(turn) for turn in turns]
    if all(found):
        return [
            (SPEAKERS[match[1].lower()], turn[match.end() :].strip())
            for match, turn in zip(found, turns, strict=True)
            if match is not None
        ]
    names = [match[1] if (match := _ANY_LABEL.match(turn)) else "" for turn in turns]
    if len(turns) > 2 and all(names) and len(set(names)) == 2:
        one, other = sorted(set(names))
        raise RowError(
            place,
            f"has turns that begin with {one!r} and {other!r}; which is the assistant? Write {{role, content}} objects",
        )
    return []
