# SPDX-License-Identifier: Apache-2.0
"""Packed documents are computed as if each were alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from finetree_worker.data.packing import TOKEN_MULTIPLE, collate, pack
from finetree_worker.errors import ModelError
from finetree_worker.tokenize.example import Example
from finetree_worker.training.attention import by_document
from finetree_worker.training.loss import hidden_states, target_loss


def _examples(lengths: list[int]) -> list[Example]:
    generator = torch.Generator().manual_seed(7)
    rows = []
    for row, length in enumerate(lengths, start=1):
        tokens = torch.randint(0, 256, (length,), generator=generator, dtype=torch.int32)
        rows.append(Example(row, tokens, torch.arange(length) >= length // 2))
    return rows


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
    model, examples = tiny(kind), _examples(lengths)
    with torch.no_grad(), by_document(model):
        packed = model.get_output_embeddings()(hidden_states(model, collate(examples)))
    expected = torch.cat([_alone(model, example) for example in examples])
    torch.testing.assert_close(packed[: len(expected)], expected, atol=1e-5, rtol=1e-5)


def test_a_document_does_see_itself(tiny: Callable[..., Any]) -> None:
    """The comparison above could not fail if the model ignored its context."""
    model, examples = tiny("llama"), _examples([40])
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
    examples = _examples([50, 12, 45])
    with torch.no_grad(), by_document(model):
        packed = model.get_output_embeddings()(hidden_states(model, collate(examples)))
    expected = torch.cat([_alone(model, example) for example in examples])
    torch.testing.assert_close(packed[: len(expected)], expected, atol=1e-5, rtol=1e-5)


def test_gradients_of_a_pack_equal_the_sum_over_its_documents(tiny: Callable[..., Any]) -> None:
    model, examples = tiny("llama"), _examples([40, 37, 25, 9])

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
    model, example = tiny("qwen2"), _examples([40])[0]
    labels = torch.where(example.is_target, example.tokens.long(), -100)[None]
    with torch.no_grad():
        expected = model(input_ids=example.tokens.long()[None], labels=labels, use_cache=False).loss * example.targets
        with by_document(model):
            ours = target_loss(model, collate([example]))
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-5)


def test_chunked_loss_and_gradient_equal_the_whole(tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny("llama"), collate(_examples([60, 50]))

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


def test_a_document_is_never_predicted_from_the_one_before() -> None:
    everything = [Example(row, torch.arange(5, dtype=torch.int32), torch.ones(5, dtype=torch.bool)) for row in (1, 2)]
    batch = collate(everything)
    assert batch.predictors.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert batch.labels.tolist() == [1, 2, 3, 4, 1, 2, 3, 4]
    assert batch.positions[0, :10].tolist() == [0, 1, 2, 3, 4] * 2
    assert batch.token_ids.shape[1] == TOKEN_MULTIPLE
    assert batch.tokens == 10


def test_packs_hold_every_row_once_and_keep_their_bound() -> None:
    examples = _examples([10, 90, 33, 47, 5, 64, 12, 100, 130])
    bins = pack(examples, max_rows=1, max_tokens=100, packing=True)
    assert sorted(example.row for documents in bins for example in documents) == list(range(1, 10))
    assert all(sum(map(len, documents)) <= 100 or len(documents) == 1 for documents in bins)
    assert len(bins) == 5


def test_without_packing_a_micro_batch_holds_so_many_rows() -> None:
    bins = pack(_examples([10, 90, 33, 47, 5]), max_rows=2, max_tokens=10, packing=False)
    assert [len(documents) for documents in bins] == [2, 2, 1]


def test_attention_that_cannot_be_computed_is_refused(tiny: Callable[..., Any]) -> None:
    from finetree_worker.training.attention import attend_documents, group

    states = torch.zeros(1, 2, 8, 4)
    groups = group([8], states.device)
    sinking = torch.nn.Module()
    sinking.sinks = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(ModelError) as caught:
        attend_documents(sinking, states, states, states, None, document_groups=groups)
    assert caught.value.reason == "UNSUPPORTED_ATTENTION"
