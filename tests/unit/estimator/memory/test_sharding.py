# SPDX-License-Identifier: Apache-2.0
"""What of a sharded model is whole, and when."""

from dataclasses import replace

import pytest
from finetree_estimator.catalog.models import model
from finetree_estimator.memory import peak
from finetree_estimator.memory.activations import layer_activations
from finetree_estimator.memory.model_states import model_states
from finetree_estimator.memory.peak import Component
from finetree_estimator.memory.sharding import Unsharded, unsharded
from finetree_estimator.memory.step_peak import loss_moment, step_peak
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.qlora import Qlora
from finetree_estimator.programs import LLM_FOUNDRY, PYTORCH, TRANSFORMERS, variant
from finetree_estimator.run import Rows, Run
from finetree_estimator.shapes.parameters import count

LLAMA = model("llama-3.1-8b").shape
LAYER = 218_112_128
"""With its part of the last norm."""
MATRIX = 128_256 * 4096


@pytest.fixture
def sharded(make_run):
    """A fully trained Llama-3.1-8B over eight devices by FullyShardedDataParallel, with any field replaced."""

    def make(**changes: object) -> Run:
        given = {
            "shape": LLAMA,
            "method": Full(),
            "weight_bytes": 4,
            "master_bytes": 4,
            "devices": 8,
            "sharding": "full",
            "program": TRANSFORMERS,
            "checkpointing": True,
            "loss": "fused",
            "rows": None,
            "batch": 32,
        }
        return make_run(**given | changes)

    return make


GIB = 1024**3


def parts(run):
    return {kind: interval.expected for kind, interval in peak.estimate(run).components}


def test_layers_are_gathered_for_a_moment_and_the_root_for_a_step(sharded):
    found = unsharded(sharded())

    assert (found.kept_weights, found.fetched_weights, found.head_weights) == (2 * 2 * MATRIX, 2 * 2 * LAYER, 0)
    assert found.gradients == (2 + 2) * LAYER + 2 * MATRIX
    assert unsharded(sharded(sharding="gradients")) == Unsharded()


def test_embeddings_and_head_are_reduced_after_the_last_layer(sharded):
    """Two float32 gradients of 2.1 GB take more than layers' of 1.3 GB and the head's 16-bit one."""
    run = sharded(micro_batch=1, batch=8, sequence_length=64, program=LLM_FOUNDRY)
    found = unsharded(run)

    assert found.gradients == (4 + 2) * LAYER + 2 * MATRIX
    assert found.root_gradients == 4 * 2 * MATRIX - found.gradients
    assert found.root_shards == 4 * 2 * MATRIX / 8
    assert step_peak(run).total == model_states(run).gradients + found.root_gradients


def test_a_matrix_in_both_places_has_two_gradients_and_their_sum(sharded):
    """As a traced step of a small Llama shows whose tied matrix is four layers large (trace_sharding.json)."""
    found = unsharded(sharded(shape=model("llama-3.2-3b").shape))

    assert found.root_gradients + found.gradients == 3 * 2 * 128_256 * 3072


@pytest.mark.parametrize(
    ("program", "bytes_each"),
    [
        (TRANSFORMERS, 2),
        (variant(TRANSFORMERS, compiled=False, frozen_kept=False), 2),
        (PYTORCH, 4 / 8),
        (variant(TRANSFORMERS, compiled=False, frozen_kept=False, casts_module=True), 2 / 8),
    ],
    ids=["accelerate", "accelerate, fully_shard", "a loop of one's own", "DeepSpeed"],
)
def test_accelerate_adds_up_whole_gradients_of_micro_batches(sharded, program, bytes_each):
    """Its no_sync is FSDP's, which reduces nothing; DeepSpeed's engine reduces each micro-batch."""
    weights = {"weight_bytes": 2} if program.casts_module else {}
    one, four = (sharded(program=program, batch=batch, **weights) for batch in (32, 128))
    loss = [loss_moment(run, model_states(run), layer_activations(run)).gradients for run in (one, four)]

    assert loss == pytest.approx([0, bytes_each * one.trainable_parameters])


def test_a_loop_of_ones_own_has_embeddings_and_head_apart_under_fully_shard(sharded):
    """As torchtitan, xtuner and prime-rl shard them; a matrix that is both stays in the root."""
    newer = variant(PYTORCH, compiled=False, frozen_kept=False)
    tied = model("llama-3.2-3b").shape
    apart, older = (unsharded(sharded(program=program)) for program in (newer, PYTORCH))
    both = unsharded(sharded(program=newer, shape=tied))

    assert (apart.kept_weights, apart.head_weights, apart.gradients) == (0, 2 * MATRIX, (4 + 2) * LAYER)
    assert apart.root_gradients == (4 + 2) * MATRIX - (4 + 2) * LAYER
    assert (older.kept_weights, older.head_weights) == (2 * 2 * MATRIX, 0)
    assert (both.kept_weights, both.head_weights) == (2 * 128_256 * 3072, 0)


def test_a_sharded_quantized_base_is_gathered_packed(make_run):
    """Mixtral's QLoRA takes 19.7 GiB allocated on each of two A100 with 2 x 4,096 tokens (fms-acceleration's refs)."""
    shape = model("mixtral-8x7b").shape
    attention = ("q_proj", "k_proj", "v_proj", "o_proj")
    run = make_run(
        shape=shape,
        method=Qlora.of(Lora(16, attention, 0.1), double_quantized=True),
        program=replace(TRANSFORMERS, experts_in_turn=True),
        checkpointing=True,
        loss="full-logits",
        micro_batch=2,
        batch=4,
        sequence_length=4096,
        rows=Rows(count=100, mean=4096, mean_square=4096**2, longest=4096, target_fraction=1.0),
        devices=2,
        sharding="full",
    )
    half = 0.52 * (count(shape).total - 2 * 32000 * 4096) / 2
    held = parts(run)[Component.BASE_WEIGHTS]

    assert half < held < half * (1 + 2 * 2 / 32) + 3 * 2 * 32000 * 4096
    assert peak.estimate(run).allocated.expected / GIB == pytest.approx(19.7, rel=0.05)
