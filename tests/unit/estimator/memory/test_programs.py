# SPDX-License-Identifier: Apache-2.0
"""What training programs hold differently: raised bases, shards, experts, heads, and what a loop keeps."""

from dataclasses import replace

import pytest
from finetree_estimator.catalog.models import model
from finetree_estimator.catalog.parameters import count
from finetree_estimator.memory import activations, peak, step_peak
from finetree_estimator.memory.model_states import model_states
from finetree_estimator.memory.peak import Component
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.qlora import Qlora
from finetree_estimator.methods.targets import PRESETS, preset_targets
from finetree_estimator.programs import FINETREE, LITGPT, PYTORCH, TORCHTUNE, TRANSFORMERS, variant
from finetree_estimator.run import Rows

GIB = 1024**3
LORA = Lora(8, PRESETS["all-linear"], 0.1)


def parts(run):
    return {kind: interval.expected for kind, interval in peak.estimate(run).components}


def test_a_quantised_base_keeps_embeddings_in_float32(make_run):
    """Qwen2.5-7B loads at 7.2 GiB, of which 4.06 GiB are float32 embeddings (reference, 3.1)."""
    run = make_run(shape=model("qwen2.5-7b").shape, method=Qlora.of(LORA, double_quantized=False), program=TRANSFORMERS)
    found = parts(run)
    workspace = 2 * 3584 * 18944

    assert (found[Component.BASE_WEIGHTS] + found[Component.QUANTIZATION] - workspace) / GIB == pytest.approx(
        7.5, abs=0.4
    )


def test_experts_stay_in_16_bits_where_nothing_packs_them(make_run):
    """transformers 5 stacks them into parameters; bitsandbytes packs linear layers."""
    mixture = {"shape": model("mixtral-8x7b").shape, "method": Qlora.of(Lora(8, ("self_attn.q_proj",)))}
    stacked, packed = (
        parts(make_run(**mixture, program=program))[Component.BASE_WEIGHTS] for program in (FINETREE, TRANSFORMERS)
    )
    experts = 32 * 8 * 3 * 4096 * 14336

    assert stacked > 2 * experts
    assert packed < 0.6 * experts + 4 * 2e9


@pytest.mark.parametrize(
    ("changes", "outside"),
    [
        ({"method": Qlora.of(LORA)}, 4),
        ({"method": Qlora.of(LORA, gptq=True)}, 2),
        ({"method": Qlora.of(LORA), "devices": 2, "sharding": "full"}, 2),
    ],
    ids=["nf4", "gptq", "sharded"],
)
def test_what_is_not_packed_is_raised_where_peft_prepares_the_model(make_run, changes, outside):
    """prepare_model_for_kbit_training leaves GPTQ alone, and a shard has one type for all of a unit's weights."""
    run = make_run(program=TRANSFORMERS, checkpointing=True, **changes)

    assert run.stream_bytes == outside
    assert step_peak.activation_bytes(run) == outside * 28 * 3072


def test_a_sharded_quantised_base_is_gathered_packed(make_run):
    """Mixtral's QLoRA takes 19.7 GiB allocated on each of two A100 with 2 x 4,096 tokens (fms-acceleration's refs)."""
    shape = model("mixtral-8x7b").shape
    attention = ("q_proj", "k_proj", "v_proj", "o_proj")
    run = make_run(
        shape=shape,
        method=Qlora.of(Lora(16, attention, 0.1), double_quantized=True),
        program=TRANSFORMERS,
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


def test_experts_in_turn_are_differentiated_with_the_tokens_that_chose_them(make_run):
    run = make_run(shape=model("mixtral-8x7b").shape, method=Lora(8, ("q_proj",)))
    layers = [activations.layer_activations(replace(run, program=program)) for program in (FINETREE, TRANSFORMERS)]
    together, in_turn = (layer.gradients / 2 - 4 * 4096 for layer in layers)

    assert (together, in_turn) == (3 * 14336 * 2, 3 * 14336 * 2 / 8)


def test_litgpt_has_a_head_of_its_own_and_unpacks_it_whole(make_run):
    """Its Llama-3.2-3B has 3.61 billion weights, since its embeddings are not tied (model.py)."""
    plain, packed = (parts(make_run(method=method, program=LITGPT)) for method in (LORA, Qlora.of(LORA)))
    head = 128256 * 3072

    assert plain[Component.BASE_WEIGHTS] == 2 * (3_212_749_824 + head)
    assert packed[Component.QUANTIZATION] == pytest.approx(2 * head + 0.0159 * (2_818_572_288 + head), rel=1e-2)


def test_a_kept_loss_keeps_the_quantised_products_inputs_of_the_micro_batch_before(make_run):
    """bitsandbytes has them as attributes, which no backward pass frees: query, MLP and its last layer, twice each."""
    run = make_run(method=Qlora.of(LORA), program=LITGPT)
    plain = make_run(method=LORA, program=LITGPT)
    kept = 2 * (2 * (2 * 3072 + 8192) + 3072)

    assert activations.layer_activations(run).saved - activations.layer_activations(plain).saved == kept


def test_capped_logits_keep_what_the_tanh_gave(make_run):
    shapes = [model(name).shape for name in ("gemma-2b", "gemma-2-2b")]
    plain, capped = (make_run(shape=shape, program=TRANSFORMERS, loss="full-logits") for shape in shapes)

    assert (step_peak.loss_peak(plain, 1), step_peak.loss_peak(capped, 1)) == (14 * 256000, 16 * 256000)


def test_logits_after_a_raised_base_are_float32_unless_autocast_takes_them_down(make_run):
    """Peaks over lengths of a T4 (fitcheck's measurements) rise by 16.3 bytes a logit, TRL's under autocast by 14.8."""
    plain = make_run(method=Qlora.of(LORA), program=TRANSFORMERS, loss="full-logits")
    autocast = replace(plain, weight_bytes=4)

    assert (step_peak.loss_peak(plain, 1), step_peak.loss_peak(autocast, 1)) == (16 * 128256, 14 * 128256)
    assert activations.layer_activations(plain).attention > activations.layer_activations(autocast).attention


def test_scores_are_differentiated_when_the_mlp_is_done(make_run):
    long = make_run(eager_attention=True, checkpointing=True, micro_batch=1, sequence_length=8192)
    short = replace(long, sequence_length=64)
    layer = activations.layer_activations(long)

    kept = activations.layer_activations(long).saved
    assert step_peak.layer_peak(long) == 8 * 24 * 8192 - layer.mlp + kept
    assert step_peak.layer_peak(short) == layer.gradients + activations.layer_activations(short).saved


def test_frozen_shards_keep_layer_inputs_and_their_gradients_to_the_end(make_run):
    """A step of FullyShardedDataParallel with reentrant checkpointing has 27 gradients more of 28 inputs' size."""
    hooked = make_run(program=TRANSFORMERS, devices=2, sharding="full", checkpointing=True, loss="fused", rows=None)
    others = [
        replace(hooked, program=variant(TRANSFORMERS, compiled=False, frozen_kept=False)),
        replace(hooked, sharding="replicated"),
        replace(hooked, checkpointing=False),
    ]
    gradients = 2 * 3072 * 27 * 4 * 512

    kept, *plain = (step_peak.step_peak(run) for run in (hooked, *others[:1]))
    assert kept.transient - plain[0].transient == gradients
    assert all(step_peak._held_gradients(run) == 0 for run in others)


DEEPSPEED = variant(TRANSFORMERS, compiled=False, frozen_kept=False, casts_module=True)


def test_a_module_that_is_cast_has_no_float32_beside_its_shards(make_run):
    """DeepSpeed's engine calls `bfloat16()` or `half()` on all of it, whatever PEFT raised before."""
    shared = {"devices": 8, "sharding": "gradients", "checkpointing": True}
    plain, cast = (make_run(program=program, method=Qlora.of(LORA), **shared) for program in (TRANSFORMERS, DEEPSPEED))
    full = make_run(program=DEEPSPEED, method=Full(), weight_bytes=2, master_bytes=4, **shared)

    assert [run.stream_bytes for run in (plain, cast, full)] == [4, 2, 2]
    assert model_states(plain).base_weights - model_states(cast).base_weights > 0


@pytest.mark.parametrize(
    ("sharding", "at_update"), [("gradients", 4 * 3.21e9 / 2), ("full", 4e9)], ids=["ZeRO-2", "ZeRO-3"]
)
def test_zero_updates_by_float32_copies_of_16_bit_gradients(make_run, sharding, at_update):
    """ZeRO-2 flattens a parameter group's, ZeRO-3 those of `sub_group_size` numbers (stage_1_and_2.py, stage3.py)."""
    changes = {"method": Full(), "weight_bytes": 2, "master_bytes": 4, "devices": 2, "sharding": sharding}
    zero, other = (model_states(make_run(program=program, **changes)) for program in (DEEPSPEED, TRANSFORMERS))

    assert zero.gradients - zero.unsharded.gradients == (other.gradients - other.unsharded.gradients) / 2
    assert zero.update_copies == pytest.approx(at_update, rel=0.01)
    assert zero.trainable_weights == other.trainable_weights


def test_adapters_that_are_gathered_from_shards_need_no_float32_inputs(make_run):
    one = make_run(program=TRANSFORMERS, method=LORA)
    sharded, replicated = (replace(one, devices=2, sharding=kind) for kind in ("full", "replicated"))
    inputs = 5 * 3072 + 3072 + 8192

    kept = [activations.layer_activations(run).saved for run in (one, sharded, replicated)]
    assert kept[0] - kept[1] == (4 - 2) * inputs
    assert kept[0] == kept[2]


@pytest.mark.parametrize(("name", "norms"), [("phi-3.5-mini", 2), ("pythia-1b", 1)])
def test_joined_projections_leave_queries_and_keys_beside_the_turned_ones(make_run, name, norms):
    """As traced steps of both families show (trace_memory.json). GPT-NeoX's two norms read one tensor."""
    shape = model(name).shape
    width = shape.q_width
    whole = make_run(shape=shape, program=TRANSFORMERS, method=Full(), master_bytes=2, rows=None)
    lora = Lora(8, preset_targets(shape, "all-linear"))
    adapted = make_run(shape=shape, program=TRANSFORMERS, method=lora, rows=None)

    normalizer = 4 * shape.heads
    assert activations.layer_activations(adapted).attention - normalizer == 2 * (4 + 2) * width
    assert activations.layer_activations(whole).attention - normalizer == 2 * (4 + 2 + 1) * width
    kept = activations.layer_activations(adapted).norms / shape.hidden
    assert kept == (4 if norms == 2 else 2) * norms


def test_autocast_takes_the_float32_input_of_each_adapter_down(make_run):
    plain = make_run(program=TRANSFORMERS, method=Qlora.of(LORA))
    autocast = replace(plain, weight_bytes=4)
    attention = [activations.layer_activations(run).attention for run in (plain, autocast)]

    kept = activations.layer_activations(plain).saved - activations.layer_activations(autocast).saved
    assert kept - (attention[0] - attention[1]) == (4 - 2) * (6 * 3072 + 8192)


def test_a_compiled_loss_keeps_no_log_softmax(make_run):
    chunked = make_run(program=TORCHTUNE, loss="chunked", rows=None)
    compiled = replace(chunked, program=variant(TORCHTUNE, compiled=True, frozen_kept=True))

    assert step_peak.loss_peak(chunked, 2048) == 128256 * (4 * 2048 + 14 * 256)
    assert step_peak.loss_peak(compiled, 2048) == 128256 * (2 * 2048 + 2 * 256)
    assert activations.layer_activations(chunked).saved - activations.layer_activations(compiled).saved == 2 * (
        8192 + 2 * 3072
    )


@pytest.mark.parametrize(("master", "per_logit"), [(2, 8), (4, 14)], ids=["bf16", "autocast"])
def test_a_plain_loop_computes_its_loss_in_the_logits_own_type(make_run, master, per_logit):
    whole = {"method": Full(), "weight_bytes": master, "master_bytes": master, "loss": "full-logits", "rows": None}

    assert step_peak.loss_peak(make_run(program=PYTORCH, **whole), 2048) == per_logit * 128256 * 2048
    assert step_peak.loss_peak(make_run(program=TRANSFORMERS, **whole), 2048) == 14 * 128256 * 2048


def test_chunks_of_a_loss_add_to_a_trained_heads_gradient_beside_the_logits(make_run):
    tuned = make_run(
        program=TORCHTUNE, method=Full(), loss="chunked", master_bytes=2, batch=4, checkpointing=True, rows=None
    )
    head = 2 * 128256 * 3072

    holds = model_states(tuned)
    assert (holds.head_gradient, holds.chunk_gradient) == (head, head)
    assert model_states(make_run()).head_gradient == 0


def test_trl_computes_chunks_of_a_loss_with_a_float32_copy_of_the_head(make_run):
    """Qwen3-8B over rows of 35 tokens peaks at 18.87 GiB, 3.6 more than its weights: its head has 1.2 in 16 bits."""
    run = make_run(program=TRANSFORMERS, method=LORA, loss="chunked", rows=None)
    raised = replace(run, method=Qlora.of(LORA), weight_bytes=4)
    head = 128256 * 3072

    assert step_peak.loss_peak(run, 2048) == (4 + 2) * head + 2 * 256 * 128256
    assert step_peak.loss_peak(raised, 2048) == 2 * head + 14 * 256 * 128256


@pytest.mark.parametrize(("bytes_", "copies"), [(2, 4), (4, 2)])
def test_adafactor_updates_a_tensor_in_float32(make_run, bytes_, copies):
    """As many as a profile of transformers' Adafactor.step counts on a CPU (4.00 and 2.00)."""
    whole = {"method": Full(), "weight_bytes": bytes_, "master_bytes": bytes_, "compute_bytes": bytes_}
    run = make_run(shape=model("qwen2.5-0.5b").shape, optimizer="adafactor", program=TRANSFORMERS, **whole)

    assert model_states(run).update_copies == copies * 4 * run.shape.vocab * run.shape.hidden
    assert model_states(make_run(optimizer="adafactor")).update_copies == 0


@pytest.mark.parametrize(
    ("compute", "batch", "copies"), [(4, 1, 2), (2, 1, 1), (4, 4, 3), (2, 4, 2)], ids=["fp32", "amp", "fp32-4", "amp-4"]
)
def test_tied_embeddings_wait_for_the_heads_gradient(make_run, compute, batch, copies):
    """The copies are those of a profiled embedding, layer and tied head (torch 2 on a CPU, float32 and autocast)."""
    whole = {"method": Full(), "weight_bytes": 4, "master_bytes": 4, "compute_bytes": compute, "optimizer": "sgd"}
    usual = {"shape": model("qwen2.5-0.5b").shape, "program": TRANSFORMERS, "micro_batch": 1, "sequence_length": 8}
    moment = step_peak.step_peak(make_run(**usual, **whole, batch=batch, rows=None))

    assert moment.transient == copies * 4 * 151936 * 896
    assert moment.activations == 0


@pytest.mark.parametrize(("optimizer", "last"), [("adamw", 20), ("adamw-8bit", 10.05), ("sgd", 8)])
def test_autocasts_copies_are_gone_when_the_last_gradient_is_there(make_run, optimizer, last):
    """TinyLlama's full training takes 20.5 GiB (github:Alonte96/finetuning_comp): five times its float32 weights, with
    gradients, two moments and the update's roots."""
    small = {"micro_batch": 1, "batch": 1, "sequence_length": 8, "rows": None, "checkpointing": True}
    whole = {"method": Full(), "weight_bytes": 2, "master_bytes": 4, "optimizer": optimizer}
    run = make_run(shape=model("tinyllama-1.1b").shape, program=TRANSFORMERS, **whole, **small)
    holds, moment = model_states(run), step_peak.step_peak(run)
    found = holds.base_weights + holds.trainable_weights + holds.optimizer_states + moment.total

    assert found / run.trainable_parameters == pytest.approx(last, rel=0.01)
    assert moment.transient >= 0


def test_without_logits_recomputed_layers_leave_less_over(make_run):
    """The replays of benchmarks/estimator/fused_fragments.py: 1.1 to 1.2 GiB of Mistral-7B's 4 GiB of layer inputs."""
    usual = {"shape": model("mistral-7b-v0.1").shape, "method": LORA, "program": TRANSFORMERS, "checkpointing": True}
    full, fused = (
        make_run(**usual, micro_batch=4, sequence_length=4096, batch=4, rows=None, loss=loss)
        for loss in ("full-logits", "fused")
    )

    assert 1.1 < parts(fused)[Component.FRAGMENTATION] / 2**30 < 1.6
    assert parts(full)[Component.FRAGMENTATION] > 1.5 * parts(fused)[Component.FRAGMENTATION]


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
