# SPDX-License-Identifier: Apache-2.0
"""What of a sharded model is whole, and when."""

from dataclasses import replace

import pytest
from finetree_estimator.catalog.models import model
from finetree_estimator.memory.activations import layer_activations
from finetree_estimator.memory.model_states import model_states
from finetree_estimator.memory.sharding import Unsharded, unsharded
from finetree_estimator.memory.step_peak import fullest_moment, loss_moment, loss_peak, step_peak
from finetree_estimator.methods.full import Full
from finetree_estimator.programs import LLM_FOUNDRY, PYTORCH, TORCHTUNE, TRANSFORMERS, variant
from finetree_estimator.run import Run

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


def test_layers_are_gathered_for_a_moment_and_the_root_for_a_step(sharded):
    found = unsharded(sharded())

    assert (found.kept_weights, found.fetched_weights, found.head_weights) == (2 * 2 * MATRIX, 2 * 2 * LAYER, 0)
    assert found.gradients == (2 + 2) * LAYER + 2 * MATRIX
    assert unsharded(sharded(sharding="gradients")) == Unsharded()


def test_what_is_gathered_for_layers_is_gone_at_the_loss(sharded):
    run = sharded(micro_batch=1, batch=8)
    states, layer = model_states(run), layer_activations(run)
    layers_alone = replace(states.unsharded, root_gradients=0.0, root_shards=0.0)
    states = replace(states, unsharded=layers_alone, update_copies=0.0)
    without = replace(states, unsharded=replace(layers_alone, fetched_weights=0.0))
    here, there = (fullest_moment(run, each, layer).total for each in (states, without))

    assert loss_moment(run, states, layer) == loss_moment(run, without, layer)
    assert here - there == layers_alone.fetched_weights


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


def test_shards_of_gradients_never_lie_where_activations_lay(sharded):
    """Reductions have a stream of their own, so that even a step whose activations are most reserves both."""
    long = {"micro_batch": 16, "batch": 128, "sequence_length": 2048}
    run = sharded(**long, program=TORCHTUNE)
    shards = 4 * run.trainable_parameters / 8

    apart = step_peak(replace(run, program=replace(TORCHTUNE, cache="kept")))
    zero = variant(TRANSFORMERS, compiled=False, frozen_kept=False, casts_module=True)
    cast = step_peak(sharded(**long, program=zero, weight_bytes=2))
    assert apart.gradients == 0
    assert apart.cached >= shards
    assert cast.cached == 0


def test_a_loop_raises_the_logits_that_it_gets_from_shards(sharded):
    """16-bit ones: torchtitan's and prime-rl's models return `output.float()`; autocast would do it in the loss."""
    loop = sharded(program=PYTORCH, loss="full-logits")
    compiled = replace(loop, program=variant(PYTORCH, compiled=True, frozen_kept=True))

    each = [loss_peak(run, 1) / LLAMA.vocab for run in (loop, compiled, replace(loop, devices=1))]
    assert each == [16, 16, 14]


def test_a_loss_in_chunks_adds_up_16_bit_gradients_of_a_gathered_head(sharded):
    one, eight = (model_states(sharded(devices=devices)) for devices in (1, 8))

    assert (one.head_gradient, eight.head_gradient) == (4 * MATRIX, 2 * MATRIX)


def test_in_segments_that_expand_an_update_finds_room(sharded):
    """Otherwise what the optimizer makes in the first step lies between blocks of activations."""
    run = sharded(batch=32)
    kept, expandable = (
        step_peak(replace(run, program=replace(TRANSFORMERS, cache=cache))) for cache in ("kept", "expandable")
    )

    assert replace(kept, cached=0) == replace(expandable, cached=0)
    assert 0 < kept.cached - expandable.cached <= model_states(run).update_copies
