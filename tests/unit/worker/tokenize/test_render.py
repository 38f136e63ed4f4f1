# SPDX-License-Identifier: Apache-2.0
"""What a template cannot render is refused with the row."""

import copy
import random
from dataclasses import replace
from typing import Any

import pytest
from finetree_worker.errors import DataError
from finetree_worker.plan import LossOn
from finetree_worker.tokenize.chat_template import ChatTemplate, Conversation
from finetree_worker.tokenize.render import _marked_spans, _span
from finetree_worker.tokenize.rows import Message, Row, RowFormat
from usual_templates import EACH, TEMPLATES, conversation
from worker_harness import example_of, learned_text

TWO_TURNS = Row(
    1, (Message("user", "one"), Message("assistant", "two"), Message("user", "three"), Message("assistant", "four"))
)


def test_a_prompt_without_a_template_is_joined_with_its_completion(tokenizer: Any) -> None:
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    row = Row(1, (Message("user", "ask:"), Message("assistant", " answer")))
    example = example_of(row, RowFormat.PROMPT_COMPLETION, plain)
    assert plain.decode(example.tokens.tolist()) == "ask: answer<|im_end|>"
    assert learned_text(example, plain) == " answer<|im_end|>"


def test_a_template_that_rewrites_earlier_turns(tokenizer: Any) -> None:
    # As Qwen 3's: the last answer alone shows its (empty) thoughts.
    thinking = copy.deepcopy(tokenizer)
    thinking.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    example = example_of(TWO_TURNS, RowFormat.CHAT, thinking)
    assert learned_text(example, thinking) == "two<|im_end|><think>\n\n</think>\n\nfour<|im_end|>"


THINKING = (
    # As Qwen 3's: the reasoning of answers before the last question is left out.
    "{% set last = messages | selectattr('role', 'equalto', 'user') | list | last %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and not loop.last %}{{ m['content'].split('</think>')[-1].lstrip('\n') }}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THOUGHTFUL = Row(
    7,
    tuple(
        Message(role, text)
        for role, text in (
            ("user", "one"),
            ("assistant", "<think>\nfirst\n</think>\n\ntwo"),
            ("user", "three"),
            ("assistant", "<think>\nsecond\n</think>\n\nfour"),
        )
    ),
)


@pytest.mark.parametrize("loss_on", [LossOn.COMPLETIONS, LossOn.ALL])
def test_an_answer_whose_reasoning_the_template_leaves_out_is_not_learned_without_it(
    tokenizer: Any, loss_on: LossOn
) -> None:
    thinking = copy.deepcopy(tokenizer)
    thinking.chat_template = THINKING
    with pytest.raises(DataError) as refused:
        example_of(THOUGHTFUL, RowFormat.CHAT, thinking, loss_on)
    assert (refused.value.reason, refused.value.field) == ("REASONING_NOT_RENDERED", "dataset[7].messages[1]")
    # What the refusal advises helps.
    last = example_of(THOUGHTFUL, RowFormat.CHAT, thinking, LossOn.LAST_COMPLETION)
    assert learned_text(last, thinking) == "<think>\nsecond\n</think>\n\nfour<|im_end|>"
    first = example_of(replace(THOUGHTFUL, messages=THOUGHTFUL.messages[:2]), RowFormat.CHAT, thinking, loss_on)
    assert "<think>\nfirst\n</think>\n\ntwo" in learned_text(first, thinking)


def test_reasoning_that_the_template_drops_everywhere_is_refused(tokenizer: Any) -> None:
    # As DeepSeek R1's first template.
    dropping = copy.deepcopy(tokenizer)
    dropping.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'].split('</think>')[-1] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(DataError) as refused:
        example_of(THOUGHTFUL, RowFormat.CHAT, dropping, LossOn.LAST_COMPLETION)
    assert refused.value.field == "dataset[7].messages[3]"
    assert refused.value.remedy.startswith("Train a model whose template keeps it")


def test_a_turn_of_weight_zero_is_read_and_not_learned(tokenizer: Any) -> None:
    turns = (*TWO_TURNS.messages[:1], Message("assistant", "wrong", learned=False), *TWO_TURNS.messages[2:])
    example = example_of(Row(1, turns), RowFormat.CHAT, tokenizer)
    assert learned_text(example, tokenizer) == "four<|im_end|>"
    assert "wrong" in tokenizer.decode(example.tokens.tolist())


def test_a_system_message_without_a_template_stands_before_the_prompt(tokenizer: Any) -> None:
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    row = Row(1, (Message("system", "Be brief."), Message("user", "ask:"), Message("assistant", " answer")))
    example = example_of(row, RowFormat.INSTRUCTION, plain)
    assert plain.decode(example.tokens.tolist()) == "Be brief.\n\nask: answer<|im_end|>"
    assert learned_text(example, plain) == " answer<|im_end|>"


def test_a_chat_for_a_model_without_a_template_is_refused(tokenizer: Any) -> None:
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    with pytest.raises(DataError) as refused:
        example_of(TWO_TURNS, RowFormat.CHAT, plain)
    assert (refused.value.reason, refused.value.field) == ("NO_CHAT_TEMPLATE", "dataset")


def test_a_template_that_hides_where_an_answer_begins_is_refused_with_row_and_turn(tokenizer: Any) -> None:
    """It turns the conversation round. What the refusal advises helps: all of it can be learned, or plain text."""
    backwards = copy.deepcopy(tokenizer)
    backwards.chat_template = "{% for m in messages | reverse %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    with pytest.raises(DataError) as refused:
        example_of(replace(TWO_TURNS, number=7), RowFormat.CHAT, backwards)
    assert (refused.value.reason, refused.value.field) == ("UNSUPPORTED_TEMPLATE", "dataset[7].messages[1]")
    whole = example_of(TWO_TURNS, RowFormat.CHAT, backwards, LossOn.ALL)
    assert learned_text(whole, backwards).startswith("assistant: four\nuser: three\n")
    assert learned_text(example_of(Row(1, text="one two"), RowFormat.TEXT, backwards), backwards) == "one two<|im_end|>"


REWRITING = {
    "thoughts of the last answer": EACH + "<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "letters": EACH + "<|{{ m.role }}|>\n{{ m.content | upper }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "a last line": EACH + "<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}end of talk{% endif %}",
}
"""Templates whose answers change with what follows them, or differ from the row's text."""
WITHOUT_MARKS = ("Llama 2", "Mistral v3")
"""Templates that write nothing before an answer but the end of the question."""


@pytest.mark.parametrize("name", [*TEMPLATES, *REWRITING])
def test_answers_are_found_by_their_marks_where_rendering_up_to_each_finds_them(tokenizer: Any, name: str) -> None:
    known = copy.deepcopy(tokenizer)
    known.chat_template = {**TEMPLATES, **REWRITING}[name]
    template, chance = ChatTemplate(known), random.Random(name)
    header = template.answer_marks.header if template.answer_marks else "<|im_start|>assistant\n"
    found = answers = 0
    for number in range(150):
        turns = conversation(chance)
        odd = chance.choice(turns)
        odd["content"] = chance.choice(["{}", "{}", " {}", "{}\n", header + "{}", "</think>{}"]).format(odd["content"])
        chat = Conversation(Row(number, tuple(Message(t["role"], t["content"]) for t in turns)), template)
        text = chat.text()
        for turn, span in _marked_spans(chat, text).items():
            assert span == _span(chat, turn, text)
            found += 1
        answers += sum(turn["role"] == "assistant" for turn in turns)
    if name in WITHOUT_MARKS:
        assert not found
    elif name in TEMPLATES or name == "thoughts of the last answer":
        assert found > 0.5 * answers


def test_a_first_answer_is_learned_from_its_header_on(tokenizer: Any) -> None:
    row = Row(1, (Message("assistant", "hello"), Message("user", "hi"), Message("assistant", "bye")))
    example = example_of(row, RowFormat.CHAT, tokenizer)
    assert learned_text(example, tokenizer) == "<|im_start|>assistant\nhello<|im_end|>bye<|im_end|>"
