# SPDX-License-Identifier: Apache-2.0
"""Tiny models of every shape that GGUF files hold, and a tokenizer with merges for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = (
    "the quick brown fox jumps over the lazy dog 123 4567 and doesn't stop",
    "What is the capital of France? Paris.\n\n  It isn't Lyon.",
    "Ünïcödé 我想在apple工作 🚀 нещо",
)
ROWS = 384
_SHAPE: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 128}
_GEMMA = {"query_pre_attn_scalar": 16, "sliding_window": 32}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama3": ("llama", {"rope_parameters": _LLAMA3, "tie_word_embeddings": False}),
    "linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "yarn": ("qwen2", {"rope_parameters": _YARN}),
    "qwen3": ("qwen3", {}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", _GEMMA),
    "gemma3": ("gemma3_text", {**_GEMMA, "num_hidden_layers": 7}),
    "smollm3": ("smollm3", {"num_hidden_layers": 4}),
}
"""Models by what is special of them: transformers' model_type and its settings."""


@pytest.fixture(scope="session")
def shaped() -> Callable[[str], Any]:
    """Makes a random model of one of SHAPES, whose norms and biases are random too."""

    def make(name: str) -> Any:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        kind, more = SHAPES[name]
        config = AutoConfig.for_model(kind, **(_SHAPE | more))
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, 0.15)
                else:
                    parameter.add_(torch.rand_like(parameter) - 0.5)
        return model

    return make


@pytest.fixture(scope="session")
def bpe() -> Callable[..., Any]:
    """Makes a byte-pair tokenizer with a split of llama.cpp, trained on a few sentences."""

    def make(split: str = "gpt-2") -> Any:
        from finetree_worker.export.gguf.pre_tokenizers import SPLITS
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast

        rule = SPLITS[split]
        inner = Tokenizer(models.BPE(ignore_merges=rule.ignore_merges))
        inner.pre_tokenizer, inner.decoder = rule.pre_tokenizer(), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=360,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|im_start|>", "<|im_end|>"],
            show_progress=False,
        )
        inner.train_from_iterator(CORPUS * 20, trainer)
        made = PreTrainedTokenizerFast(
            tokenizer_object=inner, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
        )
        made.chat_template = CHATML
        return made

    return make


@pytest.fixture(scope="session")
def exported_base(
    tmp_path_factory: pytest.TempPathFactory, shaped: Callable[[str], Any], bpe: Callable[..., Any]
) -> Path:
    """A folder with a tiny Llama in bfloat16 and its tokenizer, as a prepared model is."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    tokenizer, model = bpe(), shaped("llama").to(torch.bfloat16)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
