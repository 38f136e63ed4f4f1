# SPDX-License-Identifier: Apache-2.0
"""Memory of a served base model against sums that are worked out by hand."""

import json

import pytest
from finetree_api.trainer.v1 import artifact_pb2, serving_pb2
from finetree_api.types.v1 import hardware_pb2, method_pb2, training_pb2
from finetree_trainer.jobs.serving.memory import PROCESS_BYTES, Served, memory_of, target_bytes
from finetree_trainer.models.weights import LocatedWeights
from weight_files import safetensors

LAYERS, HIDDEN, INNER, HEADS, KV_HEADS, VOCABULARY = 2, 64, 128, 4, 2, 1000
CONFIG = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "intermediate_size": INNER,
    "vocab_size": VOCABULARY,
}
MATRICES = LAYERS * 3 * HIDDEN * INNER
OTHERS = VOCABULARY * HIDDEN + LAYERS * HIDDEN


@pytest.fixture
def folder(tmp_path):
    """A model of which each layer has three matrices and a norm, beside the embeddings."""
    tensors = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = (HIDDEN,)
        for name in ("gate_proj", "up_proj", "down_proj"):
            tensors[f"model.layers.{layer}.mlp.{name}.weight"] = (INNER, HIDDEN)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(safetensors(tensors))
    return tmp_path


def served(**changes) -> Served:  # noqa: ANN003 - fields of Served
    usual = {
        "precision": training_pb2.PRECISION_BF16,
        "quantization": method_pb2.QUANTIZATION_UNSPECIFIED,
        "max_context_tokens": 100,
        "max_parallel": 3,
        "targets_bytes": 5000,
    }
    return Served(**(usual | changes))


def test_each_part_is_what_the_configuration_says(folder):
    found = memory_of(folder, served(), device="cpu")
    assert found.weights == 2 * (MATRICES + OTHERS + VOCABULARY * HIDDEN)  # the head's copy of the embeddings
    head = HIDDEN // HEADS
    assert found.cache == 2 * LAYERS * KV_HEADS * head * 2 * 100 * 3
    assert found.working == 100 * (8 * HIDDEN + 3 * INNER) * 2 + 3 * VOCABULARY * 4
    assert (found.targets, found.process) == (5000, PROCESS_BYTES["cpu"])
    assert found.total == found.weights + found.cache + found.working + 5000 + PROCESS_BYTES["cpu"]


def test_a_head_of_its_own_is_not_copied_nor_is_one_on_a_gpu(folder):
    assert memory_of(folder, served(), device="cuda").weights == 2 * (MATRICES + OTHERS)
    (folder / "head.safetensors").write_bytes(safetensors({"lm_head.weight": (VOCABULARY, HIDDEN)}))
    assert memory_of(folder, served(), device="cpu").weights == 2 * (MATRICES + OTHERS + VOCABULARY * HIDDEN)


def test_a_wider_precision_doubles_what_is_stored_in_it(folder):
    half, whole = (memory_of(folder, served(precision=each), device="cpu") for each in (1, 3))
    assert (whole.weights, whole.cache) == (2 * half.weights, 2 * half.cache)


def test_quantization_stores_the_matrices_of_the_layers_alone(folder):
    found = memory_of(folder, served(quantization=method_pb2.QUANTIZATION_NF4), device="cuda")
    assert found.weights == MATRICES * (0.5 + 4 / 64) + 2 * OTHERS


def test_a_configuration_inside_another_and_one_with_a_head_width_are_read(folder):
    text = {"text_config": CONFIG | {"head_dim": 32}, "model_type": "both"}
    (folder / "config.json").write_text(json.dumps(text))
    assert memory_of(folder, served(), device="cpu").cache == 2 * LAYERS * KV_HEADS * 32 * 2 * 100 * 3


def test_an_unreadable_configuration_and_damaged_files_count_nothing(tmp_path):
    (tmp_path / "config.json").write_text("[")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    found = memory_of(tmp_path, served(), device="cpu")
    assert found.weights == found.cache == 0


def located(folder, kind, **more) -> LocatedWeights:  # noqa: ANN003 - fields of LocatedWeights
    return LocatedWeights("x", folder, kind, artifact_pb2.ArtifactBase(), "", **more)


def task(device="cpu", **more) -> serving_pb2.ServeTask:  # noqa: ANN003 - fields of ServeTask
    hardware = hardware_pb2.Hardware(accelerator=device)
    if device == "cpu":
        hardware.cpu.SetInParent()
    return serving_pb2.ServeTask(precision=training_pb2.PRECISION_BF16, hardware=hardware, **more)


def test_an_adapter_takes_its_file_and_a_checkpoint_its_weights_without_the_optimizer_states(folder):
    size = (folder / "model.safetensors").stat().st_size
    assert target_bytes(located(folder, artifact_pb2.ARTIFACT_KIND_ADAPTER), task()) == size
    (folder / "weights.safetensors").write_bytes(b"1234567")
    (folder / "optimizer.safetensors").write_bytes(b"x" * 1000)
    at_a_step = located(folder, artifact_pb2.ARTIFACT_KIND_ADAPTER, checkpoint=True)
    assert target_bytes(at_a_step, task()) == 7


def test_a_whole_model_takes_what_its_base_does(folder):
    whole = located(folder, artifact_pb2.ARTIFACT_KIND_MODEL)
    assert target_bytes(whole, task()) == memory_of(folder, served(), device="cpu").weights
    assert target_bytes(whole, task("a100-80gb")) == 2 * (MATRICES + OTHERS)
    packed = task("a100-80gb", quantization=method_pb2.QUANTIZATION_NF4)
    assert target_bytes(whole, packed) == MATRICES * (0.5 + 4 / 64) + 2 * OTHERS
