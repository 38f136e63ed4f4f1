# SPDX-License-Identifier: Apache-2.0
"""Answers and losses do not hang on how questions are batched, and a cancel gets through."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from finetree_worker import evaluate
from finetree_worker.errors import Cancelled
from finetree_worker.formats import Message, Row
from finetree_worker.packing import Example

QUESTIONS = [Row(i, (Message("user", "why " * (1 + i % 4)), Message("assistant", "so"))) for i in range(7)]


def _ignore(_: float) -> None:
    return


def test_batched_answers_equal_those_of_each_question_alone(
    tiny: Callable[..., Any], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("qwen3")
    together = evaluate.answers(model, tokenizer, QUESTIONS, 6, _ignore)
    monkeypatch.setattr(evaluate, "BATCH_QUESTIONS", 1)
    assert evaluate.answers(model, tokenizer, QUESTIONS, 6, _ignore) == together
    assert len(set(together)) > 1


def test_the_head_gets_contiguous_states(tiny: Callable[..., Any], tokenizer: Any) -> None:
    """With a frozen head anything else costs a copy of its matrix per question."""
    model, seen = tiny("llama"), []
    model.requires_grad_(requires_grad=False)
    handle = model.lm_head.register_forward_hook(lambda _module, args, _output: seen.append(args[0].is_contiguous()))
    evaluate.answers(model, tokenizer, QUESTIONS, 2, _ignore)
    handle.remove()
    assert seen
    assert all(seen)
    assert not model.lm_head._forward_pre_hooks


def test_the_loss_is_the_mean_over_tokens_whatever_the_batches(tiny: Callable[..., Any]) -> None:
    model, generator = tiny("llama"), torch.Generator().manual_seed(1)
    examples = [
        Example(n, torch.randint(0, 256, (n,), generator=generator, dtype=torch.int32), torch.ones(n, dtype=torch.bool))
        for n in (9, 30, 17, 50)
    ]
    sums = [evaluate.score(model, [example], 64, _ignore).nats for example in examples]
    expected = sum(sums) / sum(example.targets for example in examples)
    for budget in (50, 1000):
        assert evaluate.score(model, examples, budget, _ignore).loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("call", [1, 4])
def test_a_cancel_gets_through_between_tokens_and_leaves_the_mode(
    tiny: Callable[..., Any], tokenizer: Any, call: int
) -> None:
    model, calls = tiny("llama").train(), 0

    def look(_: float) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Cancelled

    with pytest.raises(Cancelled):
        evaluate.answers(model, tokenizer, QUESTIONS, 8, look)
    assert calls == call
    assert model.training


@pytest.mark.parametrize(
    ("answer", "same"),
    [("KEN", True), (" ken.\n", True), ("Ken!?", True), ("K EN", False), ("KE", False), ("the KEN", False)],
)
def test_matching_forgives_case_space_and_final_punctuation(answer: str, same: bool) -> None:
    assert evaluate.matches(answer, "KEN") is same


def test_white_space_inside_counts_once() -> None:
    assert evaluate.matches("Republic  of\nKenya.", "Republic of Kenya")


def test_perplexity_of_a_loss_too_large_is_none() -> None:
    assert evaluate.perplexity(0.0) == 1.0
    assert evaluate.perplexity(1e6) is None
