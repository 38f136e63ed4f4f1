# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003 - the arguments are fields of a configuration
"""Bases that cannot be trained: each is refused by a reason of its own before anything of the run begins."""

import json
import shutil

import pytest
import torch
from finetree_worker.errors import ModelError, PlanError
from finetree_worker.models import checks
from finetree_worker.models.load import load_model, load_tokenizer
from safetensors.torch import load_file, save_file


@pytest.fixture
def base(base_folder, tmp_path):
    """A copy of the tiny Llama, to be spoiled."""
    return shutil.copytree(base_folder, tmp_path / "base")


def load(folder):
    return load_model(folder, torch.float32, device=torch.device("cpu"))


def refused(folder):
    with pytest.raises(ModelError) as error:
        load(folder)
    assert str(folder) not in error.value.message
    return error.value


def configure(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rewrite(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def shard(folder):
    """The same weights in two files with an index, as large models have them."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    index = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    (folder / checks.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))


def test_a_sharded_model_is_the_same_as_in_one_file(base, base_folder):
    shard(base)
    one, two = load(base_folder).state_dict(), load(base).state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_shard_that_is_missing_or_lacks_a_tensor_of_the_index_is_named(base):
    shard(base)
    second = base / "model-00002-of-00002.safetensors"
    weights = load_file(second)
    gone = min(weights)
    del weights[gone]
    save_file(weights, second, metadata={"format": "pt"})
    error = refused(base)
    assert error.reason == "MODEL_INCOMPLETE"
    assert gone in error.message
    second.unlink()
    error = refused(base)
    assert error.reason == "MODEL_INCOMPLETE"
    assert second.name in error.message


def test_pickled_weights_are_refused_and_not_opened(base):
    (base / "model.safetensors").unlink()
    (base / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert refused(base).reason == "MODEL_PICKLED"


def test_a_pickle_beside_safetensors_is_left_alone(base):
    (base / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert load(base).config.model_type == "llama"


def test_code_of_a_model_is_neither_run_nor_needed_where_transformers_has_the_architecture(base):
    (base / "modeling_tiny.py").write_text("raise SystemExit('run')")
    configure(base, auto_map={"AutoModelForCausalLM": "modeling_tiny.Tiny"})
    assert type(load(base)).__module__.startswith("transformers.")
    configure(base, model_type="tiny9")
    assert refused(base).reason == "MODEL_REMOTE_CODE"


def test_an_adapter_beside_a_model_is_not_loaded_into_it(base):
    (base / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x"}')
    error = refused(base)
    assert error.reason == "MODEL_IS_ADAPTER"
    assert "adapter_config.json" in str(error)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"_attn_implementation": "org/kernel"}, "MODEL_REMOTE_CODE"),
        ({"attn_implementation": "org/kernel@v1:flash"}, "MODEL_REMOTE_CODE"),
        ({"text_config": {"_attn_implementation": "org/kernel"}}, "MODEL_REMOTE_CODE"),
        ({"model_type": "vit"}, "MODEL_ARCHITECTURE_UNSUPPORTED"),
        ({"quantization_config": {"quant_method": "awq"}}, "MODEL_QUANTIZED"),
        ({"num_hidden_layers": 3}, "MODEL_WEIGHTS_MISSING"),
        ({"num_hidden_layers": 1}, "MODEL_WEIGHTS_UNKNOWN"),
        ({"intermediate_size": 64}, "MODEL_WEIGHTS_MISMATCH"),
    ],
)
def test_a_configuration_that_the_weights_do_not_fit_is_refused(base, change, reason):
    configure(base, **change)
    assert refused(base).reason == reason


def test_weights_of_a_type_that_cannot_be_trained_are_named(base):
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(base, lambda weights: weights.update({name: weights[name].to(torch.float8_e4m3fn)}))
    error = refused(base)
    assert error.reason == "MODEL_DTYPE_UNSUPPORTED"
    assert name in error.message


def test_a_damaged_file_is_named(base):
    content = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(content[: len(content) // 2])
    error = refused(base)
    assert error.reason == "MODEL_UNREADABLE"
    assert "model.safetensors" in error.message


def test_tokens_without_an_embedding_and_sequences_without_positions_are_refused(base, tokenizer):
    config = load(base).config
    checks.check_fit(base, config, tokenizer, sequence_length=config.max_position_embeddings)
    with pytest.raises(PlanError) as error:
        checks.check_fit(base, config, tokenizer, sequence_length=config.max_position_embeddings + 1)
    assert (error.value.reason, error.value.field) == ("SEQUENCE_TOO_LONG", "training.sequence_length")
    config.vocab_size = len(tokenizer) - 1
    with pytest.raises(ModelError) as mismatch:
        checks.check_fit(base, config, tokenizer, sequence_length=8)
    assert mismatch.value.reason == "VOCABULARY_MISMATCH"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda base: (base / "tokenizer.json").write_text("{"), "TOKENIZER_UNREADABLE"),
        (lambda base: _forget_end(base / "tokenizer_config.json"), "TOKENIZER_UNSUPPORTED"),
    ],
    ids=["damaged", "no end"],
)
def test_a_tokenizer_that_cannot_end_an_answer_or_cannot_be_read_is_refused(base, spoil, reason):
    spoil(base)
    with pytest.raises(ModelError) as error:
        load_tokenizer(base)
    assert (error.value.reason, error.value.field) == (reason, "model")
    assert str(base) not in error.value.message


def _forget_end(file) -> None:
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in settings.items() if name != "eos_token"}))
