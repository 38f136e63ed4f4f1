# SPDX-License-Identifier: Apache-2.0
"""Attention by blocks equals torch's own, values and gradients, for every shape of document, prefix and heads."""

from typing import Any

import pytest
import torch
from finetree_worker.data.packing import collate
from finetree_worker.training.attention import by_document
from finetree_worker.training.fused.causal_attention import SHORT_TOKENS, causal_attention, suits
from finetree_worker.training.fused.levers import Lever, only
from finetree_worker.training.loss import target_loss
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from worker_harness import random_examples

SHAPES = [
    # documents, heads, key heads, length, prefix, head size
    (3, 4, 4, 16, 0, 8),
    (2, 6, 2, 80, 0, 16),
    (2, 4, 1, 208, 5, 16),
    (1, 9, 3, SHORT_TOKENS, 0, 8),
    (1, 6, 3, SHORT_TOKENS + 48, 0, 8),
    (2, 4, 2, 400, 30, 8),
]


def _states(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    documents, heads, groups, length, prefix, size = shape
    made = torch.Generator().manual_seed(1)

    def states(count: int, tokens: int) -> Tensor:
        # Stored token by token, as a layer's projections leave them.
        return torch.randn(documents, tokens, count, size, generator=made).to(dtype).transpose(1, 2)

    query, key, value = states(heads, length), states(groups, prefix + length), states(groups, prefix + length)
    return query, key, value, states(heads, length)


def _both(states: tuple[Tensor, ...], attend: Any) -> list[Tensor]:
    *inputs, grad = (each.detach() for each in states)
    for each in inputs:
        each.requires_grad_()
    out = attend(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad)]


def _plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    length, seen = query.shape[2], key.shape[2]
    mask = torch.ones(length, seen, dtype=torch.bool).tril(seen - length)
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_equal_the_plain_ones_in_float32(shape: tuple[int, ...]) -> None:
    states = _states(shape, torch.float32)
    for found, expected in zip(_both(states, causal_attention), _both(states, _plain), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES[1::3], ids=str)
def test_bfloat16_errs_as_products_of_bfloat16_do(shape: tuple[int, ...]) -> None:
    """Scores, probabilities and what they are summed to are each rounded to 8 bits: 3 parts in 1,000 of the norm."""
    states = _states(shape, torch.bfloat16)
    exact = _both(tuple(each.float() for each in states), _plain)
    for found, expected in zip(_both(states, causal_attention), exact, strict=True):
        assert found.dtype is torch.bfloat16
        assert (found - expected).norm() < 0.01 * expected.norm()


def test_a_scale_is_kept_and_no_later_key_is_seen() -> None:
    query, key, value, _ = _states((1, 2, 2, 70, 0, 8), torch.float32)
    found = causal_attention(query, key, value, 0.5)
    expected = scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.5)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    key[:, :, 40:], value[:, :, 40:] = 7.0, -7.0
    changed = causal_attention(query, key, value, 0.5)
    torch.testing.assert_close(changed[:, :, :40], found[:, :, :40], atol=0, rtol=0)
    assert not torch.allclose(changed[:, :, 40:], found[:, :, 40:])


def test_the_same_inputs_give_the_same_bits() -> None:
    states = _states((2, 4, 2, 300, 0, 8), torch.bfloat16)
    first, second = _both(states, causal_attention), _both(states, causal_attention)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_autocast_decides_the_type() -> None:
    query, key, value, _ = _states((1, 2, 2, 70, 0, 8), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = causal_attention(query, key, value.bfloat16())
    assert found.dtype is torch.bfloat16
    expected = scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.05)


def test_types_lengths_and_the_switch_decide_whether_it_is_taken() -> None:
    states = torch.zeros(1, 2, 16, 8)
    assert suits(states, states, states)
    long = torch.zeros(1, 2, SHORT_TOKENS + 16, 8)
    assert not suits(long, long, long)
    half = states.half()
    assert not suits(half, half, half)
    assert not suits(states, states, states.double())
    with only([]):
        assert not suits(states, states, states)
    with only([Lever.ATTENTION]):
        assert suits(states, states, states)


def test_a_models_loss_and_gradients_are_equal_with_it_on_and_off(tiny: Any) -> None:
    model, batch = tiny("llama"), collate(random_examples([60, 9, 50, 3, 120]))
    losses, grads = [], []
    for levers in (list(Lever), []):
        with only(levers), by_document(model):
            loss = target_loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        losses.append(loss.detach())
        grads.append([parameter.grad for parameter in model.parameters()])
        model.zero_grad()
    torch.testing.assert_close(losses[0], losses[1], atol=0, rtol=1e-6)
    for on, off in zip(*grads, strict=True):
        torch.testing.assert_close(on, off, atol=1e-4, rtol=1e-3)
