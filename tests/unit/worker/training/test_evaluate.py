# SPDX-License-Identifier: Apache-2.0
"""Answers, losses and accuracy do not hang on how rows are batched; memory does not grow with them."""

import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from finetree_worker.errors import Cancelled, MemoryExhaustedError
from finetree_worker.tokenize.example import Example
from finetree_worker.tokenize.rows import Message, Row
from finetree_worker.training import evaluate
from worker_harness import rows_of

QUESTIONS = [Row(i, (Message("user", "why " * (1 + i % 4)), Message("assistant", "so"))) for i in range(7)]


def _ignore(_: float) -> None:
    return


def scored(model: Any, examples: Sequence[Example], max_tokens: int) -> evaluate.Score:
    return evaluate.score(model, examples, max_tokens=max_tokens, on_fraction=_ignore)


def test_batched_answers_equal_those_of_each_question_alone(
    tiny: Callable[..., Any], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("qwen3")
    together = evaluate.answers(model, tokenizer, QUESTIONS, max_new_tokens=6, on_fraction=_ignore)
    monkeypatch.setattr(evaluate, "BATCH_QUESTIONS", 1)
    assert evaluate.answers(model, tokenizer, QUESTIONS, max_new_tokens=6, on_fraction=_ignore) == together
    assert len(set(together)) > 1


def test_the_head_gets_contiguous_states(tiny: Callable[..., Any], tokenizer: Any) -> None:
    """With a frozen head anything else costs a copy of its matrix per question."""
    model, seen = tiny("llama"), []
    model.requires_grad_(requires_grad=False)
    handle = model.lm_head.register_forward_hook(lambda _module, args, _output: seen.append(args[0].is_contiguous()))
    evaluate.answers(model, tokenizer, QUESTIONS, max_new_tokens=2, on_fraction=_ignore)
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
    sums = [scored(model, [example], 64).nats for example in examples]
    expected = sum(sums) / sum(example.targets for example in examples)
    for budget in (50, 1000):
        assert scored(model, examples, budget).loss == pytest.approx(expected, rel=1e-5)


def test_the_error_of_the_accuracy_is_that_of_rows_drawn_at_random(tiny: Callable[..., Any]) -> None:
    """Against the spread of the accuracy over samples of the rows, drawn with replacement."""
    model, generator = tiny("llama"), torch.Generator().manual_seed(1)
    right = [model_answers(model, start, length) for start, length in zip(range(40), range(6, 46), strict=True)]
    # Rows of which the model knows all, none, or a part.
    examples = []
    for number, known in enumerate(right):
        spoiled = torch.rand(len(known), generator=generator) < (number % 4) / 3
        tokens = torch.where(spoiled, (known + 1) % 256, known)
        examples.append(Example(number, tokens.int(), torch.ones(len(tokens), dtype=torch.bool)))
    whole = scored(model, examples, 500)
    alone = [scored(model, [example], 64) for example in examples]
    correct, tokens = (torch.tensor([float(getattr(each, name)) for each in alone]) for name in ("correct", "tokens"))
    drawn = torch.randint(0, len(alone), (4000, len(alone)), generator=generator)
    shares = correct[drawn].sum(1) / tokens[drawn].sum(1)
    assert 0.02 < float(shares.std()) < 0.2
    assert whole.accuracy_standard_error == pytest.approx(float(shares.std()), rel=0.1)
    assert alone[0].accuracy_standard_error is None


def model_answers(model: Any, start: int, length: int) -> torch.Tensor:
    """Tokens that the model itself finds most probable, from one on."""
    tokens = torch.tensor([[start]])
    with torch.no_grad():
        for _ in range(length - 1):
            tokens = torch.cat([tokens, model(input_ids=tokens).logits[:, -1:].argmax(-1)], dim=1)
    return tokens[0]


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
        evaluate.answers(model, tokenizer, QUESTIONS, max_new_tokens=8, on_fraction=look)
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


def test_evaluation_never_holds_more_logits_for_more_rows(tiny: Callable[..., Any]) -> None:
    """Gathering the logits of all rows is how an evaluation runs out of memory after the training fitted."""

    model, alive, most = tiny("llama"), [], 0

    def count(_module: Any, _args: Any, output: torch.Tensor) -> None:
        nonlocal most
        alive.append(weakref.ref(output))
        most = max(most, sum(held().numel() for held in alive if held() is not None))

    model.get_output_embeddings().register_forward_hook(count)
    rows = rows_of([40] * 8)
    scored(model, rows, 80)
    few, most = most, 0
    scored(model, rows * 10, 80)
    assert len(alive) == 4 + 40
    assert most == few


def test_token_accuracy_is_that_of_the_whole_logits(tiny: Callable[..., Any]) -> None:
    model, generator = tiny("llama"), torch.Generator().manual_seed(1)
    # What the model itself finds most probable, every third token moved: neither all right nor all wrong.
    tokens = torch.randint(0, 256, (1, 60), generator=generator)
    with torch.no_grad():
        for at in range(1, 60):
            if at % 3:
                tokens[0, at] = model(input_ids=tokens[:, :at]).logits[0, -1].argmax()
        right = model(input_ids=tokens).logits[0, :-1].argmax(-1) == tokens[0, 1:]
    example = Example(1, tokens[0].int(), torch.ones(60, dtype=torch.bool))
    score = scored(model, [example], 64)
    assert score.accuracy == pytest.approx(float(right.float().mean()))
    assert 0.5 < score.accuracy < 1.0


def test_an_evaluation_that_runs_out_of_memory_goes_on_in_smaller_parts(
    tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = tiny("llama"), rows_of([40, 30, 20, 10])
    whole = scored(model, rows, 1000)
    inner = evaluate.target_scores

    def refusing(model: Any, batch: Any) -> Any:
        if len(batch.rows) > 1:
            raise torch.OutOfMemoryError("refused")
        return inner(model, batch)

    monkeypatch.setattr(evaluate, "target_scores", refusing)
    assert scored(model, rows, 1000).loss == pytest.approx(whole.loss, rel=1e-5)

    def hopeless(*_: Any) -> Any:
        raise torch.OutOfMemoryError("refused")

    monkeypatch.setattr(evaluate, "target_scores", hopeless)
    with pytest.raises(MemoryExhaustedError):
        scored(model, rows, 1000)


def test_the_standard_error_takes_rows_as_what_was_drawn(tiny: Callable[..., Any]) -> None:
    """As the jackknife says that leaves one row out at a time: rows of unlike length, whose tokens go together."""
    model, generator = tiny("llama"), torch.Generator().manual_seed(1)
    with torch.no_grad():
        # An untrained model finds all rows alike; this one likes some tokens far more than others.
        model.get_output_embeddings().weight.mul_(40)
    rows = [
        Example(n, torch.randint(0, 256, (length,), generator=generator).int(), torch.ones(length, dtype=torch.bool))
        for n, length in enumerate([40, 3, 17, 25, 60, 8, 33, 12], start=1)
    ]
    whole = scored(model, rows, 100)
    left = [scored(model, [*rows[:i], *rows[i + 1 :]], 100).loss for i in range(len(rows))]
    mean, count = sum(left) / len(left), len(rows)
    jackknife = math.sqrt((count - 1) / count * sum((value - mean) ** 2 for value in left))
    assert whole.rows == count
    assert whole.standard_error == pytest.approx(jackknife, rel=0.2)
    assert scored(model, rows[:1], 100).standard_error is None
    packed_alone = scored(model, rows, 1)
    assert packed_alone.standard_error == pytest.approx(whole.standard_error, rel=1e-3)
