# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator.catalog.models import model
from finetree_estimator.memory import peak
from finetree_estimator.memory.activations import layer_activations
from finetree_estimator.memory.model_states import model_states
from finetree_estimator.memory.peak import Component
from finetree_estimator.memory.step_peak import (
    fullest_moment,
    held_gradients,
    kept_activations,
    layer_peak,
    loss_moment,
    loss_peak,
    step_peak,
)
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.qlora import Qlora
from finetree_estimator.methods.targets import PRESETS
from finetree_estimator.programs import PYTORCH, TORCHTUNE, TRANSFORMERS, UNSLOTH, variant
from finetree_estimator.run import Run
from finetree_estimator.shapes.parameters import count


def parts(run):
    return {kind: interval.expected for kind, interval in peak.estimate(run).components}


LORA = Lora(8, PRESETS["all-linear"], 0.1)
LLAMA = model("llama-3.1-8b").shape


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


def test_checkpointing_keeps_the_layers_inputs_only(make_run):
    runs = make_run(checkpointing=True), make_run(checkpointing=True, offloaded=True)

    assert [kept_activations(run, layer_activations(run)) for run in runs] == [2 * 3072 * 28, 0]


def test_the_loss_and_the_layer_peak_do_not_add_up(make_run):
    run = make_run(checkpointing=True, loss="full-logits", rows=None)
    tokens = run.peak_tokens
    loss, layer = loss_peak(run, tokens), layer_peak(run, layer_activations(run)) * tokens

    assert parts(run)[Component.TRANSIENT_PEAK] == max(loss, layer)
    assert loss == 14 * 128_256 * 4 * 512


def test_the_loss_kernel_decides_how_many_logits_exist(make_run):
    peaks = [loss_peak(make_run(loss=kind), 8192.0) for kind in ("full-logits", "chunked", "fused")]

    assert peaks[0] == 8 * peaks[1]
    assert peaks[2] < peaks[1]
    assert loss_peak(make_run(loss="completion-only"), 100.0) == 14 * 128_256 * 50


@pytest.mark.parametrize(
    ("program", "bytes_per_logit"),
    [(UNSLOTH, 2), (TRANSFORMERS, 2 + 4 + 2)],
    ids=["as they are", "raised by transformers' loss"],
)
def test_logits_that_are_overwritten_exist_once(make_run, program, bytes_per_logit):
    """Liger's cross entropy stores the gradient where the logits were; ForCausalLMLoss copies 16-bit ones before."""
    run = make_run(loss="in-place", program=program)

    assert loss_peak(run, 8192.0) == bytes_per_logit * 128_256 * 8192


def test_capped_logits_keep_what_the_tanh_gave(make_run):
    shapes = [model(name).shape for name in ("gemma-2b", "gemma-2-2b")]
    plain, capped = (make_run(shape=shape, program=TRANSFORMERS, loss="full-logits") for shape in shapes)

    assert (loss_peak(plain, 1), loss_peak(capped, 1)) == (14 * 256000, 16 * 256000)


def test_logits_after_a_raised_base_are_float32_unless_autocast_takes_them_down(make_run):
    """Peaks over lengths of a T4 (fitcheck's measurements) rise by 16.3 bytes a logit, TRL's under autocast by 14.8."""
    plain = make_run(method=Qlora.of(LORA), program=TRANSFORMERS, loss="full-logits")
    autocast = replace(plain, weight_bytes=4)

    assert (loss_peak(plain, 1), loss_peak(autocast, 1)) == (16 * 128256, 14 * 128256)
    assert layer_activations(plain).attention > layer_activations(autocast).attention


def test_scores_are_differentiated_when_the_mlp_is_done(make_run):
    long = make_run(eager_attention=True, checkpointing=True, micro_batch=1, sequence_length=8192, rows=None)
    short = replace(long, sequence_length=64)
    layer = layer_activations(long)

    kept = layer_activations(long).saved
    assert layer_peak(long, layer) == 8 * 24 * 8192 - layer.mlp + kept
    assert layer_peak(short, layer_activations(short)) == layer.gradients + layer_activations(short).saved


def test_frozen_shards_keep_layer_inputs_and_their_gradients_to_the_end(make_run):
    """A step of FullyShardedDataParallel with reentrant checkpointing has 27 gradients more of 28 inputs' size."""
    hooked = make_run(program=TRANSFORMERS, devices=2, sharding="full", checkpointing=True, loss="fused", rows=None)
    others = [
        replace(hooked, program=variant(TRANSFORMERS, compiled=False, frozen_kept=False)),
        replace(hooked, sharding="replicated"),
        replace(hooked, checkpointing=False),
    ]
    gradients = 2 * 3072 * 27 * 4 * 512

    kept, *plain = (step_peak(run) for run in (hooked, *others[:1]))
    assert kept.transient - plain[0].transient == gradients
    assert all(held_gradients(run) == 0 for run in others)


def test_a_compiled_loss_keeps_no_log_softmax(make_run):
    chunked = make_run(program=TORCHTUNE, loss="chunked", rows=None)
    compiled = replace(chunked, program=variant(TORCHTUNE, compiled=True, frozen_kept=True))

    assert loss_peak(chunked, 2048) == 128256 * (4 * 2048 + 14 * 256)
    assert loss_peak(compiled, 2048) == 128256 * (2 * 2048 + 2 * 256)
    assert layer_activations(chunked).saved - layer_activations(compiled).saved == 2 * (8192 + 2 * 3072)


@pytest.mark.parametrize(("master", "per_logit"), [(2, 8), (4, 14)], ids=["bf16", "autocast"])
def test_a_plain_loop_computes_its_loss_in_the_logits_own_type(make_run, master, per_logit):
    whole = {"method": Full(), "weight_bytes": master, "master_bytes": master, "loss": "full-logits", "rows": None}

    assert loss_peak(make_run(program=PYTORCH, **whole), 2048) == per_logit * 128256 * 2048
    assert loss_peak(make_run(program=TRANSFORMERS, **whole), 2048) == 14 * 128256 * 2048


def test_trl_computes_chunks_of_a_loss_with_a_float32_copy_of_the_head(make_run):
    """Qwen3-8B over rows of 35 tokens peaks at 18.87 GiB, 3.6 more than its weights: its head has 1.2 in 16 bits."""
    run = make_run(program=TRANSFORMERS, method=LORA, loss="chunked", rows=None)
    raised = replace(run, method=Qlora.of(LORA), weight_bytes=4)
    head = 128256 * 3072

    assert loss_peak(run, 2048) == (4 + 2) * head + 2 * 256 * 128256
    assert loss_peak(raised, 2048) == 2 * head + 14 * 256 * 128256


@pytest.mark.parametrize(
    ("compute", "batch", "copies"), [(4, 1, 2), (2, 1, 1), (4, 4, 3), (2, 4, 2)], ids=["fp32", "amp", "fp32-4", "amp-4"]
)
def test_tied_embeddings_wait_for_the_heads_gradient(make_run, compute, batch, copies):
    """The copies are those of a profiled embedding, layer and tied head (torch 2 on a CPU, float32 and autocast)."""
    whole = {"method": Full(), "weight_bytes": 4, "master_bytes": 4, "compute_bytes": compute, "optimizer": "sgd"}
    usual = {"shape": model("qwen2.5-0.5b").shape, "program": TRANSFORMERS, "micro_batch": 1, "sequence_length": 8}
    moment = step_peak(make_run(**usual, **whole, batch=batch, rows=None))

    assert moment.transient == copies * 4 * 151936 * 896
    assert moment.activations == 0


@pytest.mark.parametrize(("optimizer", "last"), [("adamw", 20), ("adamw-8bit", 10.05), ("sgd", 8)])
def test_autocasts_copies_are_gone_when_the_last_gradient_is_there(make_run, optimizer, last):
    """TinyLlama's full training takes 20.5 GiB (github:Alonte96/finetuning_comp): five times its float32 weights, with
    gradients, two moments and the update's roots."""
    small = {"micro_batch": 1, "batch": 1, "sequence_length": 8, "rows": None, "checkpointing": True}
    whole = {"method": Full(), "weight_bytes": 2, "master_bytes": 4, "optimizer": optimizer}
    run = make_run(shape=model("tinyllama-1.1b").shape, program=TRANSFORMERS, **whole, **small)
    holds, moment = model_states(run), step_peak(run)
    found = holds.base_weights + holds.trainable_weights + holds.optimizer_states + moment.total

    assert found / run.trainable_parameters == pytest.approx(last, rel=0.01)
    assert moment.transient >= 0


def test_sharded_weights_are_in_shards_again_at_the_update(make_run):
    """Master weights, gradients, two moments and their root, over the devices: 72.4 GB of Mistral-7B over two
    (fms-acceleration's published peak)."""
    whole = {
        "method": Full(),
        "weight_bytes": 4,
        "master_bytes": 4,
        "loss": "fused",
        "checkpointing": True,
        "rows": None,
    }
    run = make_run(
        shape=model("mistral-7b-v0.1").shape,
        **whole,
        program=TRANSFORMERS,
        devices=2,
        sharding="full",
        micro_batch=4,
        sequence_length=4096,
        batch=8,
    )
    found = peak.estimate(run)

    assert found.allocated.expected == pytest.approx(10 * count(run.shape).total, rel=0.01)
    assert found.reserved.expected > found.allocated.expected + model_states(run).unsharded.gradients


def test_what_is_gathered_for_layers_is_gone_at_the_loss(sharded):
    run = sharded(micro_batch=1, batch=8)
    states, layer = model_states(run), layer_activations(run)
    layers_alone = replace(states.unsharded, root_gradients=0.0, root_shards=0.0)
    states = replace(states, unsharded=layers_alone, update_copies=0.0)
    without = replace(states, unsharded=replace(layers_alone, fetched_weights=0.0))
    here, there = (fullest_moment(run, each, layer).total for each in (states, without))

    assert loss_moment(run, states, layer) == loss_moment(run, without, layer)
    assert here - there == layers_alone.fetched_weights


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


def test_in_segments_that_expand_an_update_finds_room(sharded):
    """Otherwise what the optimizer makes in the first step lies between blocks of activations."""
    run = sharded(batch=32)
    kept, expandable = (
        step_peak(replace(run, program=replace(TRANSFORMERS, cache=cache))) for cache in ("kept", "expandable")
    )

    assert replace(kept, cached=0) == replace(expandable, cached=0)
    assert 0 < kept.cached - expandable.cached <= model_states(run).update_copies
