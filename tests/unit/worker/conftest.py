# SPDX-License-Identifier: Apache-2.0
"""Tiny random models of real classes, in float32, and a byte tokenizer whose padding token is its end token.

The harness beside this file is importable as `worker_harness`, the rows and files of public formats as `public_rows`
and `public_files`, chat templates as `usual_templates`: test folders are no packages.
"""

import json
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

_FILES = {
    "generate_harness": "generate/harness.py",
    "rank_pool": "ranks/rank_pool.py",
    "hybrid_models": "hybrid_models.py",
    "multimodal_models": "multimodal_models.py",
    "worker_harness": "harness.py",
    "public_rows": "tokenize/public_rows.py",
    "public_files": "tokenize/public_files.py",
    "usual_templates": "../data/rows/usual_templates.py",
}


class _Finder:
    """Finds them where a test imports them, not before: the harness imports the training libraries."""

    @staticmethod
    def find_spec(name: str, *_: object) -> ModuleSpec | None:
        file = _FILES.get(name)
        return None if file is None else spec_from_file_location(name, Path(__file__).parent / file)


sys.meta_path.append(_Finder)

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY = 272


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tiny models compute faster on one thread than two threads can agree."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|im_end|>", bos_token="<|im_start|>"
    )
    fast.chat_template = TEMPLATE
    return fast


def _config(kind: str, **more: Any) -> Any:
    import transformers
    from transformers import LlamaConfig, MistralConfig, MixtralConfig, Qwen2Config, Qwen2MoeConfig, Qwen3Config

    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    } | more
    if kind == "qwen3":
        return Qwen3Config(head_dim=8, **shape)
    if kind == "mixtral":
        return MixtralConfig(num_local_experts=4, num_experts_per_tok=2, **shape)
    if kind == "qwen2-moe":
        sizes = {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 40}
        return Qwen2MoeConfig(num_experts=4, num_experts_per_tok=2, **sizes, **shape)
    from hybrid_models import HYBRIDS
    from multimodal_models import MULTIMODAL, multimodal_shape

    if kind in HYBRIDS:
        name, sizes = HYBRIDS[kind]
        return getattr(transformers, name)(**shape | sizes)
    if kind in MULTIMODAL:
        return getattr(transformers, MULTIMODAL[kind][0])(**multimodal_shape(kind, shape))
    others = {"llama": (LlamaConfig, {}), "mistral": (MistralConfig, {}), "qwen2": (Qwen2Config, {})}
    others["gemma4"] = transformers.Gemma4TextConfig, _GEMMA4
    made, sizes = others[kind]
    return made(**shape | sizes)


_GEMMA4 = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 8,
    "head_dim": 8,
    "global_head_dim": 16,
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
}
"""As E2B: the last layers take keys and values of those below, and each layer has an input of its own."""


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    """Makes a random model: tiny("llama"), tiny("mixtral"), tiny("qwen3.5"), tiny("qwen3-vl")."""

    def make(kind: str = "llama", **more: Any) -> Any:
        import torch
        import transformers
        from finetree_worker.models.auto_class import auto_name

        torch.manual_seed(0)
        config = _config(kind, **more)
        auto = getattr(transformers, auto_name(config.model_type))
        model = auto.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
        # Transformers initializes with small weights: larger ones let attention and dropout show in the logits.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.normal_(0.0, 0.15)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Any], tokenizer: Any) -> Path:
    """A folder that holds the tiny Llama and its tokenizer, as a prepared model does."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model = tiny("llama")
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows as JSONL and returns the file."""

    def write(rows: list[Any], name: str = "train.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def chat(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


@pytest.fixture(scope="session")
def chat_rows() -> list[dict[str, Any]]:
    """Eleven rows of unequal lengths: with batches of four, the last one of an epoch is short."""
    return [chat("word " * (1 + i % 5) + f"number {i}", "x" * (1 + 2 * i)) for i in range(11)]


@pytest.fixture
def plan(base_folder: Path, tmp_path: Path, write_rows: Callable[..., Path], chat_rows: list[Any]) -> Any:
    """Two epochs of LoRA with dropout in float32: six steps, the third and the sixth of three rows."""
    from finetree_worker.methods.lora import Lora
    from finetree_worker.plan import BaseModel, DataPlan, Optimization, Plan, Precision, Schedule

    return Plan(
        base=BaseModel(base_folder, "example/tiny", "main"),
        data=DataPlan(write_rows(chat_rows), scratch=tmp_path / "work", sequence_length=128),
        method=Lora(rank=4, alpha=8.0, dropout=0.2),
        optimization=Optimization(
            learning_rate=5e-3,
            batch_size=4,
            micro_batch_size=4,
            epochs=2.0,
            precision=Precision.FP32,
            schedule=Schedule.LINEAR,
            warmup_ratio=0.2,
            weight_decay=0.0,
        ),
        work=tmp_path / "work",
        artifact=tmp_path / "artifact",
    )
