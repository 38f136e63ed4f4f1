# SPDX-License-Identifier: Apache-2.0
"""Models of published runs that the catalogue does not have, by config.json or by the program that builds them."""

from finetree_api.types.v1 import run_spec_pb2 as rs


def _qwen(hidden: int, layers: int, heads: int, intermediate: int, vocab: int) -> rs.ModelShape:
    """Qwen 1, whose one projection makes queries, keys and values with a bias (its config.json and modeling file)."""
    return rs.ModelShape(
        hidden_size=hidden,
        layers=layers,
        attention_heads=heads,
        intermediate_size=intermediate,
        vocab_size=vocab,
        gated_mlp=True,
        attention_bias=True,
    )


def _book(vocab: int) -> rs.ModelShape:
    """GPT-2 as "Build a Large Language Model From Scratch" has it: no bias of queries and keys, a head of its own."""
    return rs.ModelShape(
        hidden_size=768,
        layers=12,
        attention_heads=12,
        intermediate_size=3072,
        vocab_size=vocab,
        attention_output_bias=True,
        mlp_bias=True,
        norm_bias=True,
        learned_positions=1024,
    )


SHAPES = {
    "gpt2-book": _book(50257),
    "gpt2-book-padded": _book(50304),
    "distilgpt2": rs.ModelShape(
        hidden_size=768,
        layers=6,
        attention_heads=12,
        intermediate_size=3072,
        vocab_size=50257,
        tied_embeddings=True,
        attention_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        norm_bias=True,
        learned_positions=1024,
        family="gpt2",
    ),
    "starcoder-15.5b": rs.ModelShape(
        hidden_size=6144,
        layers=40,
        attention_heads=48,
        kv_heads=1,
        intermediate_size=24576,
        vocab_size=49152,
        tied_embeddings=True,
        attention_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        norm_bias=True,
        learned_positions=8192,
        family="gpt_bigcode",
    ),
    "sol-53m": rs.ModelShape(
        hidden_size=592,
        layers=8,
        attention_heads=8,
        intermediate_size=2368,
        vocab_size=32000,
        tied_embeddings=True,
        learned_positions=512,
    ),
    "qwen-1.8b": _qwen(2048, 24, 16, 5504, 151936),
    "qwen-7b": _qwen(4096, 32, 32, 11008, 151936),
    "qwen-14b": _qwen(5120, 40, 40, 13696, 152064),
    "qwen-72b": _qwen(8192, 80, 64, 24576, 152064),
    "baichuan2-7b": rs.ModelShape(
        hidden_size=4096,
        layers=32,
        attention_heads=32,
        intermediate_size=11008,
        vocab_size=125696,
        gated_mlp=True,
    ),
    "deepseek-coder-1.3b": rs.ModelShape(
        hidden_size=2048,
        layers=24,
        attention_heads=16,
        intermediate_size=5504,
        vocab_size=32256,
        gated_mlp=True,
        family="llama",
    ),
    "powerlm-3b": rs.ModelShape(
        hidden_size=2304,
        layers=40,
        attention_heads=36,
        intermediate_size=9216,
        vocab_size=49152,
        tied_embeddings=True,
        gated_mlp=True,
        family="granite",
    ),
    "santacoder": rs.ModelShape(
        hidden_size=2048,
        layers=24,
        attention_heads=16,
        kv_heads=1,
        intermediate_size=8192,
        vocab_size=49280,
        tied_embeddings=True,
        attention_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        norm_bias=True,
        learned_positions=2048,
        family="gpt_bigcode",
    ),
    "llama-2-13b-16k": rs.ModelShape(
        hidden_size=5120,
        layers=40,
        attention_heads=40,
        intermediate_size=13824,
        vocab_size=32000,
        gated_mlp=True,
        family="llama",
    ),
    "llama-65b": rs.ModelShape(
        hidden_size=8192,
        layers=80,
        attention_heads=64,
        intermediate_size=22016,
        vocab_size=32000,
        gated_mlp=True,
        family="llama",
    ),
    "mimo-7b": rs.ModelShape(
        hidden_size=4096,
        layers=36,
        attention_heads=32,
        kv_heads=8,
        head_dim=128,
        intermediate_size=11008,
        vocab_size=151680,
        gated_mlp=True,
        attention_bias=True,
        family="qwen2",
    ),
}
"""Models that the catalogue does not have, by their config.json."""
