# SPDX-License-Identifier: Apache-2.0
"""Conversations that a chat template has rendered already: their marks are read back into turns.

A model's own template would write its marks around those that are there, and a row would be learned with two headers
and two ends. Read back, a conversation can be rendered by any model's template, and only its answers are learned.
"""

import re
from collections.abc import Iterator

from finetree_data.columns.template_marks import Marks, first_turn, marks_of
from finetree_data.errors import EmptyTextError, RowError
from finetree_data.remarks import Remark
from finetree_data.rows.row import Message

READ_BACK = Remark(
    "RENDERED_CHATS_READ_BACK",
    "The rows are rendered by a chat template already: their marks are read back into turns, which the model's own "
    "template renders.",
)
"""Remark on a file whose rows begin with the marks of a chat template."""

_ROLES = {
    **{role: role for role in ("system", "developer", "user", "assistant", "tool")},
    "ipython": "tool",
    "model": "assistant",
    "USER": "user",
    "CHATBOT": "assistant",
    "SYSTEM": "system",
    "User": "user",
    "Assistant": "assistant",
    "[INST]": "user",
    "[/INST]": "assistant",
    "[SYSTEM_PROMPT]": "system",
}
"""Roles by their names in headers."""
_UNREADABLE = ("<|start|>", "[AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]")
"""Marks that are known and not read back: channels (gpt-oss) and calls have no place in a turn's text."""
_SYSTEM_IN_QUESTION = re.compile(r"\s*<<SYS>>\n(?P<system>.*?)\n<</SYS>>\n\n", re.DOTALL)
_DATES = re.compile(r"\s*Cutting Knowledge Date: [^\n]*\nToday Date: [^\n]*\n*")
"""What the templates of Llama 3.1 and 3.2 write before a system message, and would write again."""
_WAYS_OUT = 'write the turns as "messages", or map columns {text: …} to learn the text as it is'


def parse_rendered(text: str, place: str) -> tuple[Message, ...]:
    """Return the turns of a rendered conversation; an answer's header at the end, with nothing behind, is left out.

    Raises RowError where the marks do not make whole turns.
    """
    marks = marks_of(text)
    if marks is None:
        raise RowError(place, f"does not begin with the marks of a chat template; {_WAYS_OUT}")
    if lost := next((mark for mark in _UNREADABLE if mark in text), ""):
        raise RowError(place, f"has the marks of a chat template with {lost}, which are not read back; {_WAYS_OUT}")
    return tuple(_split_system(list(_turns(text, marks, place))))


def _turns(text: str, marks: Marks, place: str) -> Iterator[Message]:
    at = first_turn(text)
    if marks.leads and not marks.header.match(text, at):
        first = marks.header.search(text, at)
        end = first.start() if first else len(text)
        yield Message("system", text[at:end])
        at = end
    while at < len(text) and text[at:].strip():
        header = marks.header.match(text, at)
        if header is None:
            raise RowError(
                place, f"has the marks of {marks.name}, and {text[at : at + 40]!r} between them; {_WAYS_OUT}"
            )
        role = _role(header, place)
        end, after = _end_of_turn(text, header.end(), marks, place)
        words = text[header.end() : end]
        at = after
        if not words.strip() and role == "assistant" and not text[at:].strip():
            return  # the prompt's last header
        if not words.strip() and role in ("user", "assistant"):
            raise EmptyTextError(place, f"has an empty turn of the {role}")
        yield Message(role, words)


def _role(header: re.Match[str], place: str) -> str:
    name = header.groupdict().get("role") or "[/INST]"
    role = _ROLES.get(name)
    if role is None:
        raise RowError(place, f"has a turn of {name!r:.40}, which is no known role; {_WAYS_OUT}")
    return role


def _end_of_turn(text: str, start: int, marks: Marks, place: str) -> tuple[int, int]:
    """Return where a turn's words end, and where the next turn begins."""
    end, following = marks.end.search(text, start), marks.header.search(text, start)
    if end is not None and (following is None or end.start() <= following.start()):
        return end.start(), end.end()
    if following is None:
        return len(text), len(text)  # the file left out the last mark
    if marks.ends_all:
        raise RowError(place, f"has the marks of {marks.name}, and a turn that does not end before the next one")
    # A template without a mark behind questions writes a line break there.
    cut = following.start()
    return cut - text.endswith("\n", start, cut), cut


def _split_system(turns: list[Message]) -> Iterator[Message]:
    for index, turn in enumerate(turns):
        found = _SYSTEM_IN_QUESTION.match(turn.content) if index == 0 and turn.role == "user" else None
        if found is not None:
            yield Message("system", found["system"])
            yield Message("user", turn.content[found.end() :])
        elif turn.role == "system" and (dates := _DATES.match(turn.content)):
            if rest := turn.content[dates.end() :]:
                yield Message("system", rest)
        else:
            yield turn
