# SPDX-License-Identifier: Apache-2.0
"""Documents that share a prefix are computed as if each were alone: losses, gradients, dropout, whatever the model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from finetree_worker.control import Steering
from finetree_worker.data.packing import collate
from finetree_worker.data.prefixes import Sharing
from finetree_worker.plan import Plan
from finetree_worker.tokenize.example import Example
from finetree_worker.training.attention import by_document
from finetree_worker.training.evaluate import score
from finetree_worker.training.gradients import Gradients
from finetree_worker.training.loss import hidden_states, sharing, target_loss
from worker_harness import METHODS, Recorder, headed_examples, loop_of

EXAMPLES = headed_examples((60, [20, 33, 7, 2]), (300, [40, 9, 38]), (0, [50]), (30, [10, 12]))
"""With prefixes and rows on both sides of the length from which the fused kernel attends."""


def _computed(
    model: Any, examples: Sequence[Example], shared: Sharing | None
) -> tuple[int, float, dict[str, torch.Tensor]]:
    model.zero_grad()
    with by_document(model):
        batch = collate(examples, shared)
        loss = target_loss(model, batch)
        loss.backward()
    return batch.tokens, float(loss.detach()), {name: p.grad.clone() for name, p in model.named_parameters()}


def _check_equal(model: Any, examples: Sequence[Example], shared: Sharing, *, saves: bool = True) -> None:
    plain, alone, expected = _computed(model, examples, None)
    tokens, loss, found = _computed(model, examples, shared)
    assert (tokens < plain) is saves
    assert loss == pytest.approx(alone, rel=1e-6)
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, atol=1e-5 * max(1.0, scale), rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mixtral"])
def test_losses_and_gradients_are_those_of_each_document_alone(tiny: Callable[..., Any], kind: str) -> None:
    """Grouped queries in all of them."""
    _check_equal(tiny(kind), EXAMPLES, Sharing())


def test_scores_in_memory_give_the_same(tiny: Callable[..., Any]) -> None:
    model = tiny("llama")
    model.set_attn_implementation("eager")
    _check_equal(model, EXAMPLES, Sharing())


def test_bounded_scores_give_the_same(tiny: Callable[..., Any]) -> None:
    """Gemma 2 bounds its scores, scales them otherwise, and has layers with a window."""
    from transformers import AutoModelForCausalLM, Gemma2Config

    config = Gemma2Config(
        vocab_size=256, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
        num_key_value_heads=2, sliding_window=512, query_pre_attn_scalar=16, attn_logit_softcapping=2.0,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    _check_equal(model, EXAMPLES, Sharing(longest=512))


def test_documents_share_within_an_attention_window_alone(tiny: Callable[..., Any]) -> None:
    """With a window of 96 those of 300 tokens and more are alone; without the rule, attention keeps the window."""
    model = tiny("mistral", sliding_window=96)
    shared = sharing(model)
    assert shared == Sharing(longest=96)
    _check_equal(model, EXAMPLES, shared)
    assert set(_prefixes(collate(EXAMPLES, shared))) == {60, 30}
    _check_equal(model, EXAMPLES, Sharing())
    _check_equal(tiny("mistral", sliding_window=16), EXAMPLES[:4], Sharing(longest=16), saves=False)


def _prefixes(batch: Any) -> list[int]:
    return [block.behind[1] for block in batch.blocks if block.behind is not None]


def test_the_comparison_can_fail(tiny: Callable[..., Any]) -> None:
    """Rests that saw no prefix, or stood at other positions, would have other states."""
    model, batch = tiny("llama"), collate(EXAMPLES[:4], Sharing())
    apart = replace(batch, blocks=tuple(replace(block, behind=None) for block in batch.blocks))
    moved = replace(batch, positions=torch.where(batch.positions >= 60, batch.positions - 20, batch.positions))
    with torch.no_grad(), by_document(model):
        states = [hidden_states(model, each) for each in (batch, apart, moved)]
    for other in states[1:]:
        assert float((states[0][60 : batch.tokens] - other[60 : batch.tokens]).abs().max()) > 1e-2


@pytest.mark.parametrize("method", ["full", "lora", "dora", "nf4", "prefix", "houlsby"])
def test_gradients_with_dropout_are_those_of_any_split(plan: Plan, method: str) -> None:
    """The masks of a step are the same whether rows share what they begin with, are packed, or are each alone."""
    loop = loop_of(replace(plan, method=METHODS[method]))
    rows = headed_examples((60, [20, 33, 7, 2]), (280, [40, 9]), (0, [50]))
    loop.subject.model.train()
    found = []
    for shared, tokens in ((Sharing(), 4096), (None, 4096), (Sharing(), 330), (None, 1)):
        made = Gradients(loop.plan, loop.subject, reporter=Recorder(), steering=Steering(Recorder()))
        assert made.sharing == Sharing()
        made.sharing, made.limit = shared, replace(made.limit, tokens=tokens)
        with by_document(loop.subject.model):
            computed = made.add(3, rows)
        gradients = {name: p.grad.clone() for name, p in loop.subject.trainable.items() if p.grad is not None}
        found.append((computed, gradients))
        made.forget()
    assert found[0][0].tokens == sum(map(len, rows)) - 3 * 60 - 280
    assert found[1][0].tokens == found[3][0].tokens == sum(map(len, rows))
    expected = found[-1][1]
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 0
    for computed, gradients in found[:-1]:
        assert computed.loss == pytest.approx(found[-1][0].loss, rel=1e-5)
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-5 * largest, rtol=1e-3, msg=name)


def test_without_packing_nothing_is_shared(plan: Plan) -> None:
    unpacked = replace(plan, optimization=replace(plan.optimization, packing=False))
    assert loop_of(unpacked).gradients.sharing is None


def test_a_batch_of_shared_rows_that_does_not_fit_is_halved_by_its_own_tokens(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six rows of 420 tokens are 120 in memory: the next limit is the longest row, not half of 420."""
    from finetree_worker.training import gradients

    rows = headed_examples((60, [12, 10, 10, 10, 8, 10]))
    loop = loop_of(plan)
    made, seen = loop.gradients, []

    def limited(model: Any, batch: Any) -> torch.Tensor:
        seen.append(batch.tokens)
        if batch.tokens > 100:
            raise torch.OutOfMemoryError("refused")
        return target_loss(model, batch)

    monkeypatch.setattr(gradients, "target_loss", limited)
    loop.subject.model.train()
    with by_document(loop.subject.model):
        made.add(0, rows)
    assert seen[0] == 120
    assert made.limit.tokens == 72
    assert max(seen[1:]) <= 72


def test_an_evaluation_shares_too(tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from finetree_worker.training import evaluate

    model, computed = tiny("llama"), []

    def noted(examples: Any, shared: Any) -> Any:
        batch = collate(examples, shared)
        computed.append(batch.tokens)
        return batch

    monkeypatch.setattr(evaluate, "collate", noted)
    shared = score(model, EXAMPLES, max_tokens=4096, on_fraction=lambda _: None)
    monkeypatch.setattr(evaluate, "sharing", lambda _: None)
    alone = score(model, EXAMPLES, max_tokens=4096, on_fraction=lambda _: None)
    assert computed[0] < computed[1] == sum(map(len, EXAMPLES))
    assert (shared.correct, shared.tokens, shared.rows) == (alone.correct, alone.tokens, alone.rows)
    for name in ("nats", "nats_squared", "nats_by_tokens", "correct_by_tokens"):
        assert getattr(shared, name) == pytest.approx(getattr(alone, name), rel=1e-6)
