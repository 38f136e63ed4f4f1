# SPDX-License-Identifier: Apache-2.0
"""What is measured of a row is what transformers' own loss says of it, however rows are batched."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from finetree_worker.errors import Cancelled
from finetree_worker.tokenize.rows import Message, Row, RowFormat
from finetree_worker.training.evaluation import measure as measuring
from finetree_worker.training.evaluation.few_shot import Examples
from finetree_worker.training.evaluation.measure import MeasuredRows, choice_examples, measure, row_sums, tokenized

ROWS = [
    Row(i + 1, (Message("user", "why " * (1 + i % 3)), Message("assistant", "so it is" * (1 + i % 2))))
    for i in range(6)
]
QUIZ = Row(
    1, (Message("user", "Which is red?"), Message("assistant", "a rose")), choices=("the sea", "a rose", "im", "snow ")
)


def _ignore(_: float) -> None:
    return


def losses(model: Any, examples: list[Any]) -> list[tuple[float, int, int]]:
    return row_sums(model, examples, on_fraction=_ignore)


def transformers_loss(model: Any, example: Any) -> float:
    """Mean cross entropy by transformers, the prompt's labels -100."""
    labels = torch.where(example.is_target, example.tokens.long(), -100)[None]
    with torch.no_grad():
        return float(model(input_ids=example.tokens.long()[None], labels=labels, use_cache=False).loss)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_losses_are_those_of_transformers(tiny: Callable[..., Any], tokenizer: Any, kind: str) -> None:
    model = tiny(kind)
    examples = tokenized(ROWS, RowFormat.CHAT, tokenizer=tokenizer)
    for example, (nats, correct, tokens) in zip(examples, losses(model, examples), strict=True):
        assert tokens == example.targets
        assert nats / tokens == pytest.approx(transformers_loss(model, example), rel=1e-5)
        with torch.no_grad():
            logits = model(input_ids=example.tokens.long()[None], use_cache=False).logits[0, :-1]
        hits = (logits.argmax(-1) == example.tokens[1:].long()) & example.is_target[1:]
        assert correct == int(hits.sum())


def test_losses_do_not_hang_on_how_rows_are_batched(
    tiny: Callable[..., Any], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    examples = tokenized(ROWS, RowFormat.CHAT, tokenizer=tokenizer)
    together = losses(model, examples)
    monkeypatch.setattr(measuring, "FORWARD_TOKENS", 1)
    monkeypatch.setattr(measuring, "WINDOW", 2)
    alone = losses(model, examples)
    for one, other in zip(together, alone, strict=True):
        assert one[0] == pytest.approx(other[0], rel=1e-5)
        assert one[1:] == other[1:]


def test_a_choice_has_the_log_likelihood_of_its_words_alone(tiny: Callable[..., Any], tokenizer: Any) -> None:
    """Neither the prompt nor the end of the turn counts; "im" is also in the mark that ends a turn."""
    model = tiny()
    (options,) = choice_examples([QUIZ], tokenizer)
    assert options.characters == (7, 6, 2, 5)
    for choice, example in zip(QUIZ.choices, options.examples, strict=True):
        learned = example.tokens[example.is_target].tolist()
        assert tokenizer.decode(learned) == choice
        with torch.no_grad():
            logits = model(input_ids=example.tokens.long()[None], use_cache=False).logits[0].log_softmax(-1)
        places = example.is_target.nonzero().squeeze(1)
        wanted = float(logits[places - 1, example.tokens[places].long()].sum())
        ((nats, _, tokens),) = losses(model, [replace(example, row=0)])
        assert tokens == len(choice)  # a byte tokenizer
        assert -nats == pytest.approx(wanted, rel=1e-4)


def test_choices_of_a_model_without_a_template(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    (options,) = choice_examples([QUIZ], tokenizer)
    example = options.examples[1]
    assert tokenizer.decode(example.tokens.tolist()) == "Which is red?a rose"
    assert tokenizer.decode(example.tokens[example.is_target].tolist()) == "a rose"


def test_a_model_is_measured_by_losses_choices_and_answers(tiny: Callable[..., Any], tokenizer: Any) -> None:
    rows = [QUIZ, replace(QUIZ, number=2, choices=("yes", "a rose"))]
    asked = MeasuredRows(
        rows,
        tokenized(rows, RowFormat.PROMPT_COMPLETION, tokenizer=tokenizer),
        choice_examples(rows, tokenizer),
        questions=[1],
    )
    told: list[float] = []
    first, second = measure(tiny(), tokenizer, asked, max_new_tokens=3, on_loss=told.append, on_answers=told.append)
    assert [len(one.choices) for one in (first, second)] == [4, 2]
    assert first.choices[1].log_likelihood == pytest.approx(second.choices[1].log_likelihood, rel=1e-5)
    assert first.answer is None
    assert second.answer is not None
    assert first.nats == pytest.approx(second.nats, rel=1e-5)
    assert told[-1] == 1.0


def test_examples_stand_before_the_question_and_nothing_of_them_is_learned(tokenizer: Any) -> None:
    system = Message("system", "Be brief.")
    row = Row(9, (system, Message("user", "2+2?"), Message("assistant", "4")))
    shown = Examples((ROWS[0], Row(3, (system, Message("user", "1+1?"), Message("assistant", "2")))))
    longer = shown.before(row, 2)
    assert [message.role for message in longer.messages] == ["system", *["user", "assistant"] * 3]
    assert longer.messages[-1] == row.messages[-1]
    plain, prompted = tokenized([row, longer], RowFormat.CHAT, tokenizer=tokenizer)
    assert prompted.tokens[prompted.is_target].tolist() == plain.tokens[plain.is_target].tolist()
    assert len(prompted) > len(plain)
    assert len(shown.before(row, 1).messages) == 5


def test_a_stop_ends_a_measurement_at_once(tiny: Callable[..., Any], tokenizer: Any) -> None:
    model = tiny()
    examples = tokenized(ROWS, RowFormat.CHAT, tokenizer=tokenizer)

    def stop(_: float) -> None:
        raise Cancelled

    model.train()
    with pytest.raises(Cancelled):
        row_sums(model, examples, on_fraction=stop)
    assert model.training
