# SPDX-License-Identifier: Apache-2.0
"""What is learned of a row, token by token."""

import copy
from dataclasses import replace
from typing import Any

import pytest
from finetree_worker.errors import DataError
from finetree_worker.plan import LossOn
from finetree_worker.tokenize.example import Example
from finetree_worker.tokenize.rows import Message, Row, RowFormat
from finetree_worker.tokenize.tool_calls import written_out
from worker_harness import examples_of

TWO_TURNS = Row(
    1, (Message("user", "one"), Message("assistant", "two"), Message("user", "three"), Message("assistant", "four"))
)


def _tokenize(row: Row, row_format: RowFormat, tokenizer: Any, loss_on: LossOn = LossOn.COMPLETIONS) -> Example:
    (example,) = examples_of([row], row_format, tokenizer, loss_on)
    return example


def _learned(example: Example, tokenizer: Any) -> str:
    return str(tokenizer.decode(example.tokens[example.is_target].tolist()))


def test_every_assistant_turn_is_learned_with_its_end(tokenizer: Any) -> None:
    example = _tokenize(TWO_TURNS, RowFormat.CHAT, tokenizer)
    assert _learned(example, tokenizer) == "two<|im_end|>four<|im_end|>"


def test_only_the_last_turn_when_asked(tokenizer: Any) -> None:
    assert (
        _learned(_tokenize(TWO_TURNS, RowFormat.CHAT, tokenizer, LossOn.LAST_COMPLETION), tokenizer) == "four<|im_end|>"
    )


def test_the_end_token_is_learned_although_it_is_the_padding_token(tokenizer: Any) -> None:
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    example = _tokenize(TWO_TURNS, RowFormat.CHAT, tokenizer)
    ends = (example.tokens == tokenizer.eos_token_id) & example.is_target
    assert int(ends.sum()) == 2


def test_everything_is_learned_when_asked(tokenizer: Any) -> None:
    example = _tokenize(TWO_TURNS, RowFormat.CHAT, tokenizer, LossOn.ALL)
    assert example.targets >= len(example) - 2


def test_a_template_without_an_end_gets_the_end_token(tokenizer: Any) -> None:
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    example = _tokenize(Row(1, (Message("user", "q"), Message("assistant", "a"))), RowFormat.CHAT, plain)
    assert int(example.tokens[-1]) == plain.eos_token_id
    assert bool(example.is_target[-1])


def test_text_ends_in_the_end_token(tokenizer: Any) -> None:
    example = _tokenize(Row(1, text="some text"), RowFormat.TEXT, tokenizer)
    assert _learned(example, tokenizer) == "some text<|im_end|>"


def test_a_prompt_without_a_template_is_joined_with_its_completion(tokenizer: Any) -> None:
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    row = Row(1, (Message("user", "ask:"), Message("assistant", " answer")))
    example = _tokenize(row, RowFormat.PROMPT_COMPLETION, plain)
    assert plain.decode(example.tokens.tolist()) == "ask: answer<|im_end|>"
    assert _learned(example, plain) == " answer<|im_end|>"


@pytest.mark.parametrize("templated", [True, False])
def test_exactly_one_beginning_token(tokenizer: Any, templated: bool) -> None:
    from tokenizers.processors import TemplateProcessing

    with_bos = copy.deepcopy(tokenizer)
    with_bos.add_special_tokens({"bos_token": "<s>"})
    bos = with_bos.bos_token_id
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    if templated:
        with_bos.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    example = _tokenize(TWO_TURNS, RowFormat.CHAT, with_bos)
    assert int(example.tokens[0]) == bos
    assert int((example.tokens == bos).sum()) == 1
    assert _learned(example, with_bos) == "two<|im_end|>four<|im_end|>"


def test_a_template_that_rewrites_earlier_turns(tokenizer: Any) -> None:
    # As Qwen 3's: the last answer alone shows its (empty) thoughts.
    thinking = copy.deepcopy(tokenizer)
    thinking.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    example = _tokenize(TWO_TURNS, RowFormat.CHAT, thinking)
    assert _learned(example, thinking) == "two<|im_end|><think>\n\n</think>\n\nfour<|im_end|>"


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
    example = _tokenize(WITH_CALL, RowFormat.CHAT, knowing, loss_on)
    assert _learned(example, knowing) == learned
    assert '"parameters"' in knowing.decode(example.tokens.tolist())


def test_functions_are_written_out_where_the_template_knows_none(tokenizer: Any) -> None:
    example = _tokenize(WITH_CALL, RowFormat.CHAT, tokenizer)
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    assert _learned(example, tokenizer) == f"{call}<|im_end|>Rain.<|im_end|>"
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
        _tokenize(replace(WITH_CALL, tools=(TOOL, other)), RowFormat.CHAT, knowing)
    assert (caught.value.reason, caught.value.row) == ("TOOLS_NOT_RENDERED", 7)


def test_a_turn_of_weight_zero_is_read_and_not_learned(tokenizer: Any) -> None:
    turns = (*TWO_TURNS.messages[:1], Message("assistant", "wrong", learned=False), *TWO_TURNS.messages[2:])
    example = _tokenize(Row(1, turns), RowFormat.CHAT, tokenizer)
    assert _learned(example, tokenizer) == "four<|im_end|>"
    assert "wrong" in tokenizer.decode(example.tokens.tolist())


def test_a_system_message_without_a_template_stands_before_the_prompt(tokenizer: Any) -> None:
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    row = Row(1, (Message("system", "Be brief."), Message("user", "ask:"), Message("assistant", " answer")))
    example = _tokenize(row, RowFormat.INSTRUCTION, plain)
    assert plain.decode(example.tokens.tolist()) == "Be brief.\n\nask: answer<|im_end|>"
    assert _learned(example, plain) == " answer<|im_end|>"


def test_a_chat_for_a_model_without_a_template_is_refused(tokenizer: Any) -> None:
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    with pytest.raises(DataError) as refused:
        _tokenize(TWO_TURNS, RowFormat.CHAT, plain)
    assert (refused.value.reason, refused.value.field) == ("NO_CHAT_TEMPLATE", "dataset")


def test_a_template_that_hides_where_an_answer_begins_is_refused_with_row_and_turn(tokenizer: Any) -> None:
    """It turns the conversation round. What the refusal advises helps: all of it can be learned, or plain text."""
    backwards = copy.deepcopy(tokenizer)
    backwards.chat_template = "{% for m in messages | reverse %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    with pytest.raises(DataError) as refused:
        _tokenize(replace(TWO_TURNS, number=7), RowFormat.CHAT, backwards)
    assert (refused.value.reason, refused.value.field) == ("UNSUPPORTED_TEMPLATE", "dataset[7].messages[1]")
    whole = _tokenize(TWO_TURNS, RowFormat.CHAT, backwards, LossOn.ALL)
    assert _learned(whole, backwards).startswith("assistant: four\nuser: three\n")
    assert _learned(_tokenize(Row(1, text="one two"), RowFormat.TEXT, backwards), backwards) == "one two<|im_end|>"
