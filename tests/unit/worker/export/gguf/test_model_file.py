# SPDX-License-Identifier: Apache-2.0
"""Whole models as GGUF files: read back by our reader, by transformers, and run by llama.cpp where it is installed."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_data.weights.export import GGUF_MODELS
from finetree_worker.errors import PlanError
from finetree_worker.export.gguf import model_file
from finetree_worker.export.gguf.architectures import ARCHITECTURES, architecture_of, read_by_transformers
from finetree_worker.export.gguf.model_file import About, ModelFile
from finetree_worker.export.gguf.tokenizer import vocabulary
from finetree_worker.export.gguf.weights import WeightType
from transformers import AutoConfig, AutoModelForCausalLM

SHAPES = (
    *("llama", "llama3", "linear", "biases", "mistral", "qwen2", "yarn", "qwen3", "gemma", "gemma2", "gemma3"),
    "smollm3",
)
READ_BY_TRANSFORMERS = ("llama", "mistral", "qwen2")
"""Shapes of which transformers 5.24 takes all that it needs out of a file: it leaves out scaled positions, Llama's
biases and Qwen 3's head size, and has no Gemma, Gemma 3 by layer type, SmolLM 3."""


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(0, 350, (1, 60), generator=torch.Generator().manual_seed(3))


def written(folder: Path, model: Any, tokenizer: Any, weights: WeightType) -> Path:
    file = folder / f"model-{weights}.gguf"
    held = vocabulary(tokenizer, model.config)
    model_file.write(file, model, held, about=About("tiny"), weights=weights, on_fraction=lambda _: None)
    return file


def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens).logits[0].float()


def largest(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).abs().max())


@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_is_read_back_as_it_was(shape, shaped, bpe, tokens, tmp_path):
    model = shaped(shape)
    before = logits(model, tokens)
    file = written(tmp_path, model, bpe(), WeightType.F32)
    assert largest(before, logits(ModelFile(file).model(), tokens)) < 2e-5 * float(before.abs().max())


@pytest.mark.parametrize("weights", [WeightType.F16, WeightType.BF16, WeightType.Q8_0])
def test_what_is_rounded_in_memory_is_what_the_file_holds(weights, shaped, bpe, tokens, tmp_path):
    model = shaped("gemma2")
    before = logits(model, tokens)
    file = written(tmp_path, model, bpe(), weights)
    model_file.round_like_file(model, weights)
    rounded = logits(model, tokens)
    assert largest(before, rounded) > 1e-4
    assert largest(rounded, logits(ModelFile(file).model(), tokens)) < 1e-5


@pytest.mark.parametrize("shape", READ_BY_TRANSFORMERS)
def test_transformers_reads_the_file_with_equal_logits(shape, shaped, bpe, tokens, tmp_path):
    model = shaped(shape)
    file = written(tmp_path, model, bpe(), WeightType.F16)
    model_file.round_like_file(model, WeightType.F16)
    read: Any = AutoModelForCausalLM.from_pretrained
    theirs = read(tmp_path, gguf_file=file.name, dtype=torch.float32).eval()
    assert largest(logits(model, tokens), logits(theirs, tokens)) < 1e-5


def test_transformers_is_named_for_the_shapes_that_it_reads_whole(shaped):
    assert {shape for shape in SHAPES if read_by_transformers(shaped(shape).config)} == set(READ_BY_TRANSFORMERS)


def test_a_shape_is_refused_by_name():
    with pytest.raises(PlanError, match="gpt2") as raised:
        architecture_of(AutoConfig.for_model("gpt2"))
    assert raised.value.reason == "EXPORT_ARCHITECTURE_UNSUPPORTED"
    assert "llama" in raised.value.message


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("llama", {"hidden_act": "relu"}, "its activation is 'relu'"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "scaled by 'dynamic'",
        ),
        ("gemma2", {"tie_word_embeddings": False}, "output head is not its embeddings"),
        ("gemma2", {"query_pre_attn_scalar": 144}, "query_pre_attn_scalar 144"),
        ("qwen2", {"use_sliding_window": True}, "its attention slides"),
    ],
)
def test_a_setting_that_llama_cpp_computes_otherwise_is_refused(kind, settings, said):
    with pytest.raises(PlanError, match=re.escape(said)):
        architecture_of(AutoConfig.for_model(kind, **settings))


def test_the_trainer_and_the_worker_write_the_same_shapes():
    assert sorted(ARCHITECTURES) == sorted(GGUF_MODELS)


def test_weights_beyond_float16_are_refused(shaped, bpe, tmp_path):
    model = shaped("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = 1e5
    with pytest.raises(PlanError, match=r"layers\.1\.mlp\.up_proj"):
        written(tmp_path, model, bpe(), WeightType.F16)


@pytest.mark.parametrize("shape", SHAPES)
def test_llama_cpp_computes_the_same(shape, shaped, bpe, tokens, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp", reason="uv pip install llama-cpp-python (built from source, 12 min)")
    model = shaped(shape)
    file = written(tmp_path, model, bpe(), WeightType.F32)
    program = llama_cpp.Llama(
        model_path=str(file), n_ctx=64, logits_all=True, verbose=False, n_threads=1, type_k=0, type_v=0
    )
    program.eval(tokens[0].tolist())
    theirs = torch.from_numpy(program.scores[: tokens.shape[1]].copy())
    # Its GELU is a table of float16: 2e-3 of a logit of 6.
    assert largest(logits(model, tokens), theirs) < (2e-2 if "gemma" in shape else 1e-3)
