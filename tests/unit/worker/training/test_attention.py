# SPDX-License-Identifier: Apache-2.0
"""Packed documents attend as if each were alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from finetree_worker.data.packing import collate
from finetree_worker.tokenize.example import Example
from finetree_worker.training.attention import by_document
from finetree_worker.training.loss import hidden_states
from worker_harness import random_examples


def _alone(model: Any, example: Example) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=example.tokens.long()[None], use_cache=False).logits[0]
    return logits


LENGTHS = [[40], [40, 40], [40, 37, 25], [60, 9, 50, 3, 2], [300, 20, 280]]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_packed_logits_equal_those_of_each_document_alone(
    tiny: Callable[..., Any], kind: str, lengths: list[int]
) -> None:
    model, examples = tiny(kind), random_examples(lengths)
    with torch.no_grad(), by_document(model):
        packed = model.get_output_embeddings()(hidden_states(model, collate(examples)))
    expected = torch.cat([_alone(model, example) for example in examples])
    torch.testing.assert_close(packed[: len(expected)], expected, atol=1e-5, rtol=1e-5)


def test_a_document_does_see_itself(tiny: Callable[..., Any]) -> None:
    """The comparison above could not fail if the model ignored its context."""
    model, examples = tiny("llama"), random_examples([40])
    whole, tail = _alone(model, examples[0]), Example(1, examples[0].tokens[20:], examples[0].is_target[20:])
    assert (whole[20:] - _alone(model, tail)).abs().max() > 1e-2


def test_a_sliding_window_is_kept(tiny: Callable[..., Any]) -> None:
    from transformers import AutoModelForCausalLM, MistralConfig

    config = MistralConfig(
        vocab_size=256, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=16, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa").eval()
    examples = random_examples([50, 12, 45])
    with torch.no_grad(), by_document(model):
        packed = model.get_output_embeddings()(hidden_states(model, collate(examples)))
    expected = torch.cat([_alone(model, example) for example in examples])
    torch.testing.assert_close(packed[: len(expected)], expected, atol=1e-5, rtol=1e-5)
