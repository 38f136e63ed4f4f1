# SPDX-License-Identifier: Apache-2.0
"""The compiled chat template gives what `apply_chat_template` gives, its refusals included."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from finetree_worker.errors import DataError
from finetree_worker.tokenize import chat_template
from finetree_worker.tokenize.chat_template import ChatTemplate, Conversation, is_plain
from finetree_worker.tokenize.rows import Message, Row

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo", "days": [1, None, True]}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
ROWS = (
    Row(1, (Message("user", "one "), Message("assistant", "two"))),
    Row(2, (Message("system", "Be brief."), Message("user", "<b>"), Message("assistant", "é", learned=False))),
    Row(
        3,
        (
            Message("user", "Oslo?"),
            Message("assistant", "", tool_calls=(CALL,)),
            Message("tool", "rain", tool_call_id="c1", name="weather"),
            Message("assistant", "Rain."),
        ),
        tools=(TOOL,),
    ),
)
_EACH = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
TEMPLATES: dict[str, Any] = {
    "names and ends": "{{ bos_token }}{% for m in messages %}{{ m.role }}{{ m.name }}{{ m.tool_call_id }}: "
    "{{ m['content'] | trim }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}>{% endif %}",
    "tools": "{{ tools | tojson }}{% for m in messages %}{{ m | tojson }}{% endfor %}{{ documents }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "the last": "{% for m in messages %}{{ loop.last }}{{ loop.length }}{{ m.content }}{% endfor %}",
    "a refusal": _EACH + "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}",
    "a fault": "{{ messages[2].content.nothing() }}",
    "a change": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}"
    "{% if m.pop is defined %}{{ m.pop('content') }}{% endif %}{% endfor %}",
    "two": {"default": _EACH, "tool_use": "with tools: " + _EACH},
}


def _outcome(act: Callable[[], str]) -> str:
    try:
        return act()
    except DataError as error:
        return f"{error.reason} {error.row}: {error}"


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_compiled_template_gives_what_the_public_function_gives(
    tokenizer: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = copy.deepcopy(tokenizer)
    mine.chat_template = TEMPLATES[name]

    def shown() -> list[str]:
        chats = [Conversation(row, ChatTemplate(mine)) for row in ROWS]
        asked = [(chat, turns, prompt) for chat in chats for turns in (1, 2, None) for prompt in (False, True)]
        return [_outcome(lambda a=a: a[0].text(a[1], prompt=a[2])) for a in asked]  # type: ignore[misc]

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the public function was asked")

    with monkeypatch.context() as patch:
        patch.setattr("transformers.tokenization_utils_base.render_jinja_template", refuse)
        direct = shown()
    with monkeypatch.context() as patch:  # as with a version that has no such function
        patch.setattr(chat_template, "_compile", None)
        public = shown()
    assert direct == public
    assert ROWS[2].messages[1].tool_calls == (CALL,)


def test_a_value_that_is_no_plain_json_goes_through_the_public_function(tokenizer: Any) -> None:
    class Text(str):
        """Has what a template must not reach."""

        __slots__ = ()
        secret = "s"

    mine = copy.deepcopy(tokenizer)
    mine.chat_template = "{% for m in messages %}{{ m.content }}{{ m.content.secret }}{% endfor %}"
    row = Row(1, (Message("user", Text("a")), Message("assistant", "b")))
    assert Conversation(row, ChatTemplate(mine)).text() == "ab"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ({"a": [1, 2.0, None, True, "x", {}]}, True),
        ([(1,)], False),
        ({"a": {1: b"x"}}, False),
        ([True, {"a": {"b": object()}}], False),
    ],
)
def test_plain_values_are_told(value: Any, plain: bool) -> None:
    assert is_plain(value) is plain
