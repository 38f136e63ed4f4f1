# SPDX-License-Identifier: Apache-2.0
"""What is learned of a row, token by token."""

import copy
from typing import Any

import pytest
from finetree_worker.plan import LossOn
from finetree_worker.tokenize.rows import Message, Row, RowFormat
from finetree_worker.tokenize.tokenizer import RowTokenizer
from worker_harness import example_of, learned_text

TWO_TURNS = Row(
    1, (Message("user", "one"), Message("assistant", "two"), Message("user", "three"), Message("assistant", "four"))
)


def test_every_assistant_turn_is_learned_with_its_end(tokenizer: Any) -> None:
    example = example_of(TWO_TURNS, RowFormat.CHAT, tokenizer)
    assert learned_text(example, tokenizer) == "two<|im_end|>four<|im_end|>"


def test_only_the_last_turn_when_asked(tokenizer: Any) -> None:
    assert (
        learned_text(example_of(TWO_TURNS, RowFormat.CHAT, tokenizer, LossOn.LAST_COMPLETION), tokenizer)
        == "four<|im_end|>"
    )


def test_the_end_token_is_learned_although_it_is_the_padding_token(tokenizer: Any) -> None:
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    example = example_of(TWO_TURNS, RowFormat.CHAT, tokenizer)
    ends = (example.tokens == tokenizer.eos_token_id) & example.is_target
    assert int(ends.sum()) == 2


def test_everything_is_learned_when_asked(tokenizer: Any) -> None:
    example = example_of(TWO_TURNS, RowFormat.CHAT, tokenizer, LossOn.ALL)
    assert example.targets >= len(example) - 2


def test_a_template_without_an_end_gets_the_end_token(tokenizer: Any) -> None:
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    example = example_of(Row(1, (Message("user", "q"), Message("assistant", "a"))), RowFormat.CHAT, plain)
    assert int(example.tokens[-1]) == plain.eos_token_id
    assert bool(example.is_target[-1])


def test_text_ends_in_the_end_token(tokenizer: Any) -> None:
    example = example_of(Row(1, text="some text"), RowFormat.TEXT, tokenizer)
    assert learned_text(example, tokenizer) == "some text<|im_end|>"


@pytest.mark.parametrize("text", ["some text \n", "some text\n\n", "some text\t"])
def test_text_that_ends_in_white_space_learns_to_end(tokenizer: Any, text: str) -> None:
    example = example_of(Row(1, text=text), RowFormat.TEXT, tokenizer)
    assert learned_text(example, tokenizer) == text + "<|im_end|>"


def test_a_completion_that_ends_in_a_line_break_learns_to_end_without_a_template(tokenizer: Any) -> None:
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    row = Row(1, (Message("user", "ask:"), Message("assistant", " answer\n")))
    example = example_of(row, RowFormat.PROMPT_COMPLETION, plain)
    assert learned_text(example, plain) == " answer\n<|im_end|>"


def test_a_job_may_leave_out_the_end_token(tokenizer: Any) -> None:
    maker = RowTokenizer(tokenizer, LossOn.COMPLETIONS, append_eos=False)
    block = maker.block([Row(1, text="some text"), Row(2, text="more")], RowFormat.TEXT)
    assert tokenizer.decode(block.tokens.tolist()) == "some textmore"
    chat = maker.block([TWO_TURNS], RowFormat.CHAT)
    assert int((chat.tokens == tokenizer.eos_token_id).sum()) == 4  # the template's own


@pytest.mark.parametrize("templated", [True, False])
def test_exactly_one_beginning_token(tokenizer: Any, templated: bool) -> None:
    from tokenizers.processors import TemplateProcessing

    with_bos = copy.deepcopy(tokenizer)
    with_bos.add_special_tokens({"bos_token": "<s>"})
    bos = with_bos.bos_token_id
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    if templated:
        with_bos.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    example = example_of(TWO_TURNS, RowFormat.CHAT, with_bos)
    assert int(example.tokens[0]) == bos
    assert int((example.tokens == bos).sum()) == 1
    assert learned_text(example, with_bos) == "two<|im_end|>four<|im_end|>"
