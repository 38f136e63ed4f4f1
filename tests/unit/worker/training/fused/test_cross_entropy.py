# SPDX-License-Identifier: Apache-2.0
"""The loss by hand equals autograd's, value and gradient, and keeps no logits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from finetree_worker.data.packing import collate
from finetree_worker.training.attention import by_document
from finetree_worker.training.fused import cross_entropy, tiles
from finetree_worker.training.fused.cross_entropy import LogitRule, cross_entropy_sum, suits
from finetree_worker.training.fused.levers import Lever, only
from finetree_worker.training.loss import target_loss
from torch import Tensor, nn
from worker_harness import random_examples

VOCABULARY = 300
RULES = [LogitRule(), LogitRule(factor=0.3), LogitRule(cap=4.0), LogitRule(factor=2.0, cap=5.0)]


@pytest.fixture(autouse=True)
def blocks_of_seven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "_block_targets", lambda *_: 7)
    monkeypatch.setattr(tiles, "CACHE_BYTES", 3 * 2 * 4 * VOCABULARY)


def _head(dtype: torch.dtype = torch.float32, *, bias: bool = False) -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(16, VOCABULARY, bias=bias).to(dtype).requires_grad_(requires_grad=False)


def _states(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(4)
    hidden = (5 * torch.randn(31, 16, generator=made)).to(dtype).requires_grad_()
    return hidden, torch.randint(0, VOCABULARY, (31,), generator=made)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)], ids=str)
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_value_and_gradient_are_autograds(dtype: torch.dtype, tolerance: float, rule: LogitRule, *, bias: bool) -> None:
    head, (hidden, labels) = _head(dtype, bias=bias), _states(dtype)
    plain = nn.functional.cross_entropy(rule.logits(head(hidden)), labels, reduction="sum")
    (expected,) = torch.autograd.grad(plain * 0.25, hidden)
    found = cross_entropy_sum(head, hidden, labels, rule)
    (gradient,) = torch.autograd.grad(found * 0.25, hidden)
    torch.testing.assert_close(found, plain, atol=0, rtol=1e-6)
    assert gradient.dtype is dtype
    assert float((gradient - expected).float().norm()) <= tolerance * float(expected.float().norm())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)], ids=str)
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("words", [100, 8192])
def test_a_trained_heads_gradients_are_autograds(
    dtype: torch.dtype, tolerance: float, rule: LogitRule, words: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Summed over blocks of targets and of words."""
    monkeypatch.setattr(cross_entropy, "WORDS", words)
    head, (hidden, labels) = _head(dtype).requires_grad_(), _states(dtype)
    plain = nn.functional.cross_entropy(rule.logits(head(hidden)), labels, reduction="sum")
    expected = torch.autograd.grad(plain * 0.25, (hidden, head.weight))
    found = torch.autograd.grad(cross_entropy_sum(head, hidden, labels, rule) * 0.25, (hidden, head.weight))
    for gradient, wanted in zip(found, expected, strict=True):
        assert gradient.dtype is dtype
        assert float((gradient - wanted).float().norm()) <= tolerance * float(wanted.float().norm())


def test_under_autocast_products_are_its_own_and_gradients_the_parameters() -> None:
    head, (hidden, labels) = _head().requires_grad_(), _states()
    with torch.autocast("cpu", torch.bfloat16):
        assert suits(head, hidden)
        plain = nn.functional.cross_entropy(head(hidden).float(), labels, reduction="sum")
        found = cross_entropy_sum(head, hidden, labels, LogitRule())
    torch.testing.assert_close(found, plain, atol=0, rtol=1e-6)
    expected = torch.autograd.grad(plain, (hidden, head.weight))
    for gradient, wanted in zip(torch.autograd.grad(found, (hidden, head.weight)), expected, strict=True):
        assert gradient.dtype is torch.float32
        assert float((gradient - wanted).norm()) <= 1e-2 * float(wanted.norm())


def test_without_targets_a_trained_head_has_zeros() -> None:
    """A rank that computes for nothing, so that the others can go on."""
    head, (hidden, labels) = _head().requires_grad_(), _states()
    cross_entropy_sum(head, hidden[:0], labels[:0], LogitRule()).backward()  # type: ignore[no-untyped-call]
    assert head.weight.grad is not None
    assert not head.weight.grad.any()


def test_its_gradient_is_that_of_the_formula() -> None:
    """Softmax less the label, through the head, in double precision."""
    head, (hidden, labels) = _head(), _states()
    logits = hidden.detach().double() @ head.weight.double().T
    expected = (logits.softmax(-1) - nn.functional.one_hot(labels, VOCABULARY)) @ head.weight.double()
    (found,) = torch.autograd.grad(cross_entropy_sum(head, hidden, labels, LogitRule()), hidden)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_a_label_without_probability_has_a_finite_loss() -> None:
    head, (hidden, labels) = _head(), _states()
    found = cross_entropy_sum(head, 1e4 * hidden, labels, LogitRule())
    (gradient,) = torch.autograd.grad(found, hidden)
    assert found.isfinite()
    assert gradient.isfinite().all()


def test_no_logits_are_kept() -> None:
    head, (hidden, labels) = _head(), _states()
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        cross_entropy_sum(head, hidden, labels, LogitRule())
    assert kept == [hidden.numel()]


def test_it_is_open_to_plain_heads_alone() -> None:
    hidden, _ = _states()
    assert suits(_head(), hidden)
    assert suits(_head().requires_grad_(), hidden)
    assert suits(_head(bias=True), hidden)
    assert not suits(_head(bias=True).requires_grad_(), hidden)
    assert not suits(_head(torch.bfloat16), hidden)
    assert not suits(_head(torch.float16), hidden.detach().half().requires_grad_())
    assert not suits(nn.Sequential(_head()), hidden)
    assert not suits(_head(), hidden.detach())
    hooked = _head()
    hooked.register_forward_hook(lambda *_: None)
    assert not suits(hooked, hidden)
    with torch.no_grad():
        assert not suits(_head(), hidden)
    with torch.autocast("cpu", torch.bfloat16):
        assert suits(_head(), hidden)
    with torch.autocast("cpu", torch.float16):
        assert not suits(_head(), hidden)
    with only(set(Lever) - {Lever.LOSS}):
        assert not suits(_head(), hidden)


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_with_a_frozen_head_learns_the_same(tiny: Callable[..., Any], *, tied: bool) -> None:
    model, batch = tiny(tie_word_embeddings=tied), collate(random_examples([60, 50]))
    model.requires_grad_(requires_grad=False)
    layer = model.model.layers[0].mlp.down_proj.weight.requires_grad_()

    def learned(levers: set[Lever]) -> tuple[Tensor, Tensor]:
        layer.grad = None
        with only(levers), by_document(model):
            loss = target_loss(model, batch)
            assert ("CrossEntropySum" in str(loss.grad_fn)) == (Lever.LOSS in levers)
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), layer.grad.clone()

    by_hand, plain = learned(set(Lever)), learned(set(Lever) - {Lever.LOSS})
    torch.testing.assert_close(by_hand, plain, atol=1e-5, rtol=1e-5)
