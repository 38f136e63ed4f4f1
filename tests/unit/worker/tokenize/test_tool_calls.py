# SPDX-License-Identifier: Apache-2.0
"""Functions and calls, rendered by the template or written as text."""

import copy
from dataclasses import replace
from typing import Any

import pytest
from finetree_worker.errors import DataError
from finetree_worker.plan import LossOn
from finetree_worker.tokenize.rows import Message, Row, RowFormat
from finetree_worker.tokenize.tool_calls import written_out
from worker_harness import example_of, learned_text

# As Qwen 2.5's: tools in the system turn, calls as JSON in the assistant's, results in the user's.
WITH_TOOLS = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ 'user' if m['role'] == 'tool' else m['role'] }}\n{{ m['content'] }}"
    "{% for c in m['tool_calls'] or [] %}<tool_call>{{ c['function'] | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


WITH_CALL = Row(
    7,
    (
        Message("user", "Oslo?"),
        Message("assistant", "", tool_calls=(CALL,)),
        Message("tool", "rain", name="weather"),
        Message("assistant", "Rain."),
    ),
    tools=(TOOL,),
)


CALLED = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'


@pytest.mark.parametrize(
    ("loss_on", "learned"),
    [(LossOn.COMPLETIONS, f"{CALLED}<|im_end|>Rain.<|im_end|>"), (LossOn.LAST_COMPLETION, "Rain.<|im_end|>")],
)
def test_calls_are_learned_and_their_results_are_not(tokenizer: Any, loss_on: LossOn, learned: str) -> None:
    knowing = copy.deepcopy(tokenizer)
    knowing.chat_template = WITH_TOOLS
    example = example_of(WITH_CALL, RowFormat.CHAT, knowing, loss_on)
    assert learned_text(example, knowing) == learned
    assert '"parameters"' in knowing.decode(example.tokens.tolist())


def test_functions_are_written_out_where_the_template_knows_none(tokenizer: Any) -> None:
    example = example_of(WITH_CALL, RowFormat.CHAT, tokenizer)
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    assert learned_text(example, tokenizer) == f"{call}<|im_end|>Rain.<|im_end|>"
    text = tokenizer.decode(example.tokens.tolist())
    schema = '{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}'
    assert text.startswith("<|im_start|>system\n")
    assert f"<tools>\n{schema}\n</tools>" in text
    assert "<|im_start|>user\n<tool_response>\nrain\n</tool_response><|im_end|>" in text


def test_results_that_follow_each_other_are_written_into_one_turn(tokenizer: Any) -> None:
    user, called, result, answer = WITH_CALL.messages
    both = replace(called, content="I look.", tool_calls=(CALL, CALL))
    row = Row(1, (Message("system", "Be brief."), user, both, result, replace(result, content="sun"), answer))
    found = written_out(row)
    assert [message.role for message in found.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert found.messages[2].content.count("<tool_call>") == 2
    assert found.messages[2].content.startswith("I look.\n")
    assert found.messages[3].content.count("<tool_response>") == 2
    assert written_out(replace(row, tools=(TOOL,))).messages[0].content.startswith("Be brief.\n\nYou may call")


def test_a_template_that_leaves_some_functions_out_is_refused(tokenizer: Any) -> None:
    knowing = copy.deepcopy(tokenizer)
    knowing.chat_template = WITH_TOOLS.replace("for t in tools", "for t in tools[:1]")
    other = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}
    with pytest.raises(DataError) as caught:
        example_of(replace(WITH_CALL, tools=(TOOL, other)), RowFormat.CHAT, knowing)
    assert (caught.value.reason, caught.value.row) == ("TOOLS_NOT_RENDERED", 7)
