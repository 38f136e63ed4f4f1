# SPDX-License-Identifier: Apache-2.0
"""The loss of packed documents is that of each alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from finetree_worker.data.packing import collate
from finetree_worker.tokenize.example import Example
from finetree_worker.training.attention import by_document
from finetree_worker.training.loss import target_loss
from worker_harness import random_examples


def test_gradients_of_a_pack_equal_the_sum_over_its_documents(tiny: Callable[..., Any]) -> None:
    model, examples = tiny("llama"), random_examples([40, 37, 25, 9])

    def gradients(batches: list[list[Example]]) -> dict[str, torch.Tensor]:
        model.zero_grad()
        with by_document(model):
            for documents in batches:
                target_loss(model, collate(documents)).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    together, apart = gradients([examples]), gradients([[example] for example in examples])
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, apart[name], atol=1e-4, rtol=1e-5, msg=name)


def test_loss_is_that_of_transformers(tiny: Callable[..., Any]) -> None:
    model, example = tiny("qwen2"), random_examples([40])[0]
    labels = torch.where(example.is_target, example.tokens.long(), -100)[None]
    with torch.no_grad():
        expected = model(input_ids=example.tokens.long()[None], labels=labels, use_cache=False).loss * example.targets
        with by_document(model):
            ours = target_loss(model, collate([example]))
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-5)


def test_chunked_loss_and_gradient_equal_the_whole(tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny("llama"), collate(random_examples([60, 50]))

    def measure() -> tuple[float, torch.Tensor]:
        model.zero_grad()
        with by_document(model):
            loss = target_loss(model, batch)
            loss.backward()
        return float(loss.detach()), model.get_input_embeddings().weight.grad.clone()

    whole = measure()
    monkeypatch.setattr("finetree_worker.training.loss.CHUNK_TARGETS", 7)
    chunked = measure()
    assert chunked[0] == pytest.approx(whole[0], rel=1e-6)
    torch.testing.assert_close(chunked[1], whole[1], atol=1e-4, rtol=1e-5)
