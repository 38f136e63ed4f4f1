# SPDX-License-Identifier: Apache-2.0
"""A tied embedding's gradient is added to the head's row by row: the sum is autograd's, and dense."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from finetree_worker.data.packing import collate
from finetree_worker.training.attention import by_document
from finetree_worker.training.fused.levers import Lever, only
from finetree_worker.training.fused.step import faster
from finetree_worker.training.fused.tied_embedding import rows_alone
from finetree_worker.training.loss import target_loss
from torch.utils._python_dispatch import TorchDispatchMode
from worker_harness import random_examples


class _Zeros(TorchDispatchMode):
    """Counts the dense gradients of an embedding that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.dense += "embedding_dense_backward" in str(func)
        return func(*args, **(kwargs or {}))


def _learned(model: Any, levers: set[Lever], *, times: int = 1) -> tuple[dict[str, torch.Tensor], int]:
    model.zero_grad()
    model.train()
    batch, made = collate(random_examples([60, 50])), _Zeros()
    with only(levers), by_document(model), faster(model):
        for _ in range(times):
            loss = target_loss(model, batch)
            with made:
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return {name: p.grad.clone() for name, p in model.named_parameters()}, made.dense


@pytest.mark.parametrize("times", [1, 3])
def test_gradients_are_dense_and_the_same(tiny: Callable[..., Any], times: int) -> None:
    model = tiny(tie_word_embeddings=True)
    (on, made_on), (off, made_off) = _learned(model, set(Lever), times=times), _learned(model, set(), times=times)
    assert (made_on, made_off) == (0, times)
    assert on.keys() == off.keys()
    for name, gradient in on.items():
        assert gradient.layout is torch.strided
        torch.testing.assert_close(gradient, off[name], atol=1e-4, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}")


def test_the_same_step_gives_the_same_bits(tiny: Callable[..., Any]) -> None:
    model = tiny(tie_word_embeddings=True)
    (first, _), (second, _) = _learned(model, set(Lever)), _learned(model, set(Lever))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_untied_or_frozen_embedding_is_left_alone(tiny: Callable[..., Any]) -> None:
    untied, frozen = tiny(tie_word_embeddings=False), tiny(tie_word_embeddings=True).requires_grad_(requires_grad=False)
    for model in (untied, frozen):
        with rows_alone(model):
            assert not model.get_input_embeddings().sparse
    gradients, made = _learned(untied, set(Lever))
    assert made == 1
    assert all(gradient.layout is torch.strided for gradient in gradients.values())


def test_it_is_as_it_was_after_the_block(tiny: Callable[..., Any]) -> None:
    model = tiny(tie_word_embeddings=True)
    with rows_alone(model):
        assert model.get_input_embeddings().sparse
    assert not model.get_input_embeddings().sparse
