# SPDX-License-Identifier: Apache-2.0
"""A tokenizer's chat template, applied to many rows.

`apply_chat_template` copies and checks every message each time. Where rows hold plain JSON values, the compiled
template is called directly: with `apply_chat_template` tokenizing a file of chats takes 1.40 times the CPU time (3,000
chats of 2 or of 6 turns, medians of 7 alternating rounds).
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jinja2.runtime import new_context
from jinja2.utils import concat
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from finetree_worker.errors import DataError
from finetree_worker.tokenize.limits import held, limited_call
from finetree_worker.tokenize.rows import Message, Row
from finetree_worker.tokenize.tool_calls import TEMPLATE_ERRORS, knows_tools

_compile: Any = getattr(chat_template_utils, "_compile_jinja_template", None)
# transformers' own sandbox, filters and cache. A version without it is slower, not wrong.


@dataclass(frozen=True, slots=True)
class AnswerMarks:
    """What a template writes around an answer.

    `header` ends the prompt; `opening` stands behind it in some answers (Qwen 3's empty thoughts in the last), `end`
    behind the answer.
    """

    header: str
    opening: str
    end: str


class ChatTemplate:
    """A tokenizer's chat template; the tokenizer may not be changed meanwhile."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._special: dict[str, Any] = dict(tokenizer.special_tokens_map)
        own = type(tokenizer).apply_chat_template is PreTrainedTokenizerBase.apply_chat_template
        self._direct = own and _compile is not None and is_plain(self._special)
        self._compiled: dict[bool, Any] = {}
        self._given: dict[bool, dict[str, Any]] = {}

    @property
    def exists(self) -> bool:
        """Whether the tokenizer has a template."""
        return self.tokenizer.chat_template is not None

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the template renders functions that are offered, and calls of them."""
        return knows_tools(self.tokenizer)

    @cached_property
    def answer_marks(self) -> "AnswerMarks | None":
        """What the template writes around an answer; None where a short chat does not show it."""
        asked, answer = [{"role": "user", "content": "\ue000"}], {"role": "assistant", "content": "\ue001"}
        try:
            closed, opened = (self.render(asked, None, prompt=prompt, plain=True) for prompt in (False, True))
            whole = self.render([*asked, answer], None, prompt=False, plain=True)
        except TEMPLATE_ERRORS:
            return None
        header = opened[len(closed) :]
        if not (opened.startswith(closed) and header.strip() and whole.startswith(opened)):
            return None
        opening, _, end = whole[len(opened) :].partition("\ue001")
        return AnswerMarks(header, opening, end.rstrip()) if end.strip() else None

    def render(self, turns: list[dict[str, Any]], tools: list[Any] | None, *, prompt: bool, plain: bool) -> str:
        """Render turns like `apply_chat_template`; `plain` says that turns and tools are (`is_plain`).

        Raises the template's errors (TEMPLATE_ERRORS), and PlanError TOKENIZATION_LIMIT where no limits hold yet.
        """
        if held():  # as for all rows of a file
            return self._rendered(turns, tools, prompt=prompt, plain=plain)
        with limited_call("Rendering these messages"):
            return self._rendered(turns, tools, prompt=prompt, plain=plain)

    def _rendered(self, turns: list[dict[str, Any]], tools: list[Any] | None, *, prompt: bool, plain: bool) -> str:
        if not (plain and turns and self._direct):
            found = self.tokenizer.apply_chat_template(turns, tools=tools, tokenize=False, add_generation_prompt=prompt)
            return str(found)
        # A tokenizer may have a template of its own for rows with functions.
        key = tools is None
        if key not in self._compiled:
            compiled = self._compiled[key] = _compile(self.tokenizer.get_chat_template(None, tools))
            self._given[key] = {**compiled.globals, **self._special, "documents": None}
        compiled, given = self._compiled[key], self._given[key].copy()
        given.update(messages=turns, tools=tools, add_generation_prompt=prompt)
        # As `Template.render` does, without going through jinja's layers of globals for each row.
        context = new_context(compiled.environment, compiled.name, compiled.blocks, given, shared=True)
        return concat(compiled.root_render_func(context))


@dataclass(slots=True)
class Conversation:
    """A row's turns and functions in the form that chat templates take."""

    row: Row
    template: ChatTemplate
    turns: list[dict[str, Any]] = field(init=False)
    _tools: list[Any] | None = field(init=False)
    _plain: bool = field(init=False)

    def __post_init__(self) -> None:
        self.turns = [_turn(message) for message in self.row.messages]
        self._tools = list(self.row.tools) or None
        self._plain = is_plain(self.turns) and is_plain(self._tools)

    def text(self, turns: int | None = None, *, prompt: bool = False) -> str:
        """Render the first turns, or all; with `prompt`, with the header of the assistant's answer.

        Raises DataError TEMPLATE_REFUSED_ROW.
        """
        try:
            return self.template.render(self.turns[:turns], self._tools, prompt=prompt, plain=self._plain)
        except TEMPLATE_ERRORS as error:
            number, reason = self.row.number, str(error)[:200] or type(error).__name__
            raise DataError(
                "TEMPLATE_REFUSED_ROW",
                f"Row {number}: the model's chat template rejects these messages: {reason}",
                field=f"dataset[{number}].messages",
                remedy="Many templates need user and assistant in turns, and a system message only at the beginning.",
                row=number,
            ) from error


def _turn(message: Message) -> dict[str, Any]:
    """Return a message in the form that chat templates take."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = list(message.tool_calls)
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    if message.name:
        turn["name"] = message.name
    return turn


_SCALARS = frozenset((str, int, float, bool, type(None)))


def is_plain(value: Any) -> bool:
    """Return whether a value has JSON's types alone; subclasses of them may behave differently in a template."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is list:
        return all(map(is_plain, value))
    return kind is dict and all(map(is_plain, value)) and all(map(is_plain, value.values()))
