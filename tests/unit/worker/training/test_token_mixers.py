# SPDX-License-Identifier: Apache-2.0
"""Layers that mix tokens by a state or a convolution learn from each document as if it were alone."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from finetree_worker.data.packing import collate
from finetree_worker.training.attention import by_document
from finetree_worker.training.loss import target_loss
from finetree_worker.training.token_mixers import mixes_tokens
from hybrid_models import HYBRIDS
from worker_harness import random_examples

KINDS = list(HYBRIDS)
LENGTHS = [[40], [40, 37, 25], [150, 9, 70, 3, 2]]


def gradients(model: Any, batches: list[Any]) -> dict[str, torch.Tensor]:
    """Gradients of the summed losses of the batches."""
    model.zero_grad()
    with by_document(model):
        for batch in batches:
            target_loss(model, batch).backward()  # type: ignore[no-untyped-call]  # torch types its tensors, not this method
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "computed again"])
def test_packed_gradients_are_those_of_each_document_alone(
    tiny: Callable[..., Any], kind: str, lengths: list[int], *, checkpointing: bool
) -> None:
    model, examples = tiny(kind).train(), random_examples(lengths)
    alone = gradients(model, [collate([example]) for example in examples])
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    packed = gradients(model, [collate(examples)])
    assert packed.keys() == alone.keys()
    for name, expected in alone.items():
        scale = float(expected.abs().max()) or 1.0
        torch.testing.assert_close(packed[name] / scale, expected / scale, atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradients_of_mixed_documents_would_differ(tiny: Callable[..., Any], kind: str) -> None:
    """The comparison above could not fail if states did not matter."""
    model, (first, second) = tiny(kind), random_examples([40, 30])
    with torch.no_grad():
        logits = model(input_ids=torch.cat([first.tokens, second.tokens]).long()[None], use_cache=False).logits[0, 40:]
        alone = model(input_ids=second.tokens.long()[None], use_cache=False).logits[0]
    assert float((logits - alone).abs().max()) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_has_its_own_functions_back_afterwards(tiny: Callable[..., Any], kind: str) -> None:
    model = tiny(kind)
    module = vars(sys.modules[type(model).__module__])
    before = dict(module)
    with by_document(model):
        assert any(module[name] is not before[name] for name in before)
    assert all(module[name] is before[name] for name in before)


def test_only_models_that_mix_tokens_are_said_to(tiny: Callable[..., Any]) -> None:
    assert [kind for kind in ("llama", "mixtral", *KINDS) if mixes_tokens(tiny(kind))] == KINDS
