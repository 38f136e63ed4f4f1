# SPDX-License-Identifier: Apache-2.0
"""Prefixes: what a document sees of them, how they start, what is answered behind them."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from finetree_worker.data.packing import collate
from finetree_worker.errors import PlanError
from finetree_worker.methods.prefix import Prefix
from finetree_worker.models.load import load_tokenizer
from finetree_worker.plan import Plan
from finetree_worker.tokenize.example import Example
from finetree_worker.tokenize.rows import Message, Row
from finetree_worker.training import evaluate
from finetree_worker.training.attention import by_document
from finetree_worker.training.loss import hidden_states
from finetree_worker.training.run import adapt, load
from worker_harness import tuned

# peft 0.21 calls transformers 5 by old names; 8-bit products say how they work at each one.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning"),
    pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning"),
]


CPU = torch.device("cpu")


def example(row: int, length: int) -> Example:
    tokens = (torch.arange(length, dtype=torch.int32) * 7 + row) % 256
    return Example(row, tokens, torch.ones(length, dtype=torch.bool))


def prefixed(plan: Plan, model: Any, tokens: int = 6) -> Any:
    """A model with a prefix that is neither zero nor any text's."""
    chosen = replace(plan, method=Prefix(tokens))
    _, subject = adapt(chosen, model, CPU)
    with torch.no_grad():
        weight = subject.trainable["prompt_encoder.default.embedding.weight"]
        weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))
    return subject.model.eval()


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("window", [None, 24], ids=["whole", "window"])
def test_every_packed_document_sees_the_whole_prefix_and_no_other_document(
    plan: Plan, tiny: Callable[..., Any], kind: str, window: int | None
) -> None:
    """Against peft, one document at a time; also where the model looks back no further than a window."""
    if window:
        kind = "mistral"
    model = prefixed(plan, tiny(kind, **({"sliding_window": window} if window else {})))
    documents = [example(1, 40), example(2, 33), example(3, 9), example(4, 9)]
    batch = collate(documents)
    with torch.no_grad(), by_document(model):
        packed = model.get_output_embeddings()(hidden_states(model, batch))
    first = 0
    for document in documents:
        with torch.no_grad():
            alone = model(input_ids=document.tokens[None].long()).logits[0]
        torch.testing.assert_close(packed[first : first + len(document)], alone, atol=1e-5, rtol=0)
        first += len(document)


def test_a_prefix_from_a_text_is_as_if_the_text_stood_before_the_row(plan: Plan) -> None:
    model = load(plan, CPU).eval()
    row = torch.arange(30)[None]
    start = Prefix(6).init_tokens(load_tokenizer(plan.base.folder))
    assert len(start) == 6
    with torch.no_grad():
        whole = model(input_ids=torch.cat([torch.tensor([start]), row], dim=1)).logits[:, 6:]
        _, subject = adapt(replace(plan, method=Prefix(6)), model, CPU)
        behind = subject.model.eval()(input_ids=row).logits
    torch.testing.assert_close(behind, whole, atol=1e-5, rtol=0)


def test_answers_behind_a_prefix_are_those_of_the_model_that_was_trained(plan: Plan) -> None:
    """Prompts of unequal lengths: padding between the prefix and its question would move the question."""
    model = prefixed(plan, load(plan, CPU))
    tokenizer = load_tokenizer(plan.base.folder)
    rows = [Row(i, (Message("user", "word " * i), Message("assistant", "x"))) for i in (3, 1, 2)]
    given = evaluate.answers(model, tokenizer, rows, max_new_tokens=5, on_fraction=lambda _: None)
    for row, answer in zip(rows, given, strict=True):
        ids = evaluate.prompt_tokens(row, tokenizer)
        for _ in range(5):
            one = Example(1, torch.tensor(ids, dtype=torch.int32), torch.ones(len(ids), dtype=torch.bool))
            with torch.no_grad(), by_document(model):
                states = hidden_states(model, collate([one]))[len(ids) - 1]
            ids.append(int(model.get_output_embeddings()(states).argmax()))
        made = ids[-5:]
        if tokenizer.eos_token_id in made:
            made = made[: made.index(tokenizer.eos_token_id)]
        assert answer == tokenizer.decode(made, skip_special_tokens=True).strip()


def test_a_prefix_longer_than_the_attention_window_is_refused(plan: Plan, tiny: Callable[..., Any]) -> None:
    with pytest.raises(PlanError) as refused:
        adapt(replace(plan, method=Prefix(24)), tiny("mistral", sliding_window=24), CPU)
    assert (refused.value.reason, refused.value.field) == ("PREFIX_TOO_LONG", "prefix.virtual_tokens")


@pytest.mark.parametrize(
    ("tokens", "remedy"),
    [(24, "Lower sequence_length to 8, or use fewer virtual tokens."), (32, "Use fewer virtual tokens.")],
)
def test_a_prefix_and_a_row_longer_than_the_models_positions_are_refused(plan: Plan, tokens: int, remedy: str) -> None:
    from transformers import AutoModelForCausalLM, GPT2Config

    build: Any = AutoModelForCausalLM.from_config
    model = build(GPT2Config(n_positions=32, n_embd=16, n_layer=1, n_head=2, vocab_size=272))
    with pytest.raises(PlanError) as refused:
        adapt(replace(tuned(plan, sequence_length=128), method=Prefix(tokens)), model, CPU)
    assert (refused.value.reason, refused.value.remedy) == ("PREFIX_TOO_LONG", remedy)


def test_a_text_without_tokens_starts_no_prefix(tokenizer: Any) -> None:
    from tokenizers import normalizers

    stripping = copy.deepcopy(tokenizer)
    stripping.backend_tokenizer.normalizer = normalizers.Strip()
    with pytest.raises(PlanError) as refused:
        Prefix(6, init_text="  ").init_tokens(stripping)
    assert (refused.value.reason, refused.value.field) == ("INVALID_PREFIX_TEXT", "prefix.init_text")


def test_a_model_whose_keys_and_values_differ_in_size_takes_no_prefix(plan: Plan) -> None:
    """DeepSeek's heads: 12 numbers of a key, 8 of a value."""
    from transformers import AutoModelForCausalLM, DeepseekV3Config

    heads = {"qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "q_lora_rank": 16, "kv_lora_rank": 8}
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "first_k_dense_replace": 2}
    config = DeepseekV3Config(vocab_size=272, num_attention_heads=4, num_key_value_heads=4, **shape, **heads)
    build: Any = AutoModelForCausalLM.from_config
    with pytest.raises(PlanError) as refused:
        adapt(replace(plan, method=Prefix(6)), build(config), CPU)
    assert (refused.value.reason, refused.value.field) == ("PREFIX_NOT_SUPPORTED", "prefix")


def test_peft_loses_what_it_has_generated_as_the_rules_of_servers_say(plan: Plan, tiny: Callable[..., Any]) -> None:
    """Once this fails, peft or transformers has changed: look at the rule transformers.prefix.generate again."""
    model = prefixed(plan, tiny("llama"))
    ids = torch.arange(5, 12)[None]
    tokens = ids
    with torch.no_grad():
        for _ in range(8):
            logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
        generated = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=0
        )
    count = generated.shape[1]
    assert count > ids.shape[1] + 1
    assert not torch.equal(generated, tokens[:, :count])
