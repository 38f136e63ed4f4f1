# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator import constants as c
from finetree_estimator.catalog.models import model
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.prefix import Prefix
from finetree_estimator.methods.qlora import Qlora
from finetree_estimator.methods.targets import PRESETS
from finetree_estimator.programs import FINETREE, PYTORCH, TORCHTUNE, TRANSFORMERS, UNSLOTH, variant
from finetree_estimator.run import Rows, Run
from finetree_estimator.shapes.parameters import linear_weights
from finetree_estimator.timing import phases, step_time
from finetree_estimator.timing.elementwise import layer_traffic
from finetree_estimator.timing.step_time import Step

ROWS = Rows(count=1000, mean=200.0, mean_square=45_000.0, longest=512, target_fraction=0.5)
QV = Lora(8, PRESETS["query-value"])


def flops(run):
    return step_time.training_flops(run, ROWS, Step(4, 800.0))


def forward(run, rows):
    return step_time.forward_flops(run, rows)


def elementwise(run):
    return step_time.elementwise_seconds(run, ROWS, 800.0)


def matrix_part(run):
    """FLOPs of the layers' weights per token, in units of the weights of their projections."""
    return forward(run, ROWS).dense / linear_weights(run.shape)


def moved(run):
    return layer_traffic(run)


def test_a_forward_pass_costs_two_flops_per_weight(make_run):
    assert matrix_part(make_run()) == pytest.approx(2.0, rel=1e-3)


def test_lora_skips_the_gradients_of_frozen_weights(make_run):
    """LoRA 4N, full 6N, checkpointing 2N on top (reference, section 4)."""
    lora, full = flops(make_run(method=QV)), flops(make_run(method=Full()))

    assert full / lora == pytest.approx(1.5, rel=0.01)
    assert flops(make_run(method=QV, checkpointing=True)) / lora == pytest.approx(1.5, rel=0.1)
    assert flops(make_run(method=Full(), checkpointing=True)) / full == pytest.approx(8 / 6, rel=0.1)


def test_attention_grows_with_the_row_not_with_the_packed_sequence(make_run):
    short, long = (
        forward(make_run(), Rows(count=10, mean=n, mean_square=n * n, longest=int(n), target_fraction=1.0)).attention
        for n in (100.0, 1100.0)
    )

    assert long - short == 28 * 3072 * 2 * 1000


def test_a_window_is_skipped_by_kernels_that_take_it_and_not_under_a_mask(make_run):
    """Mistral-7B v0.1: 32 layers see 4,096 tokens of 8,192: on average 4,096 - 4,096^2 / 16,384 = 3,072, not 4,096."""
    rows = Rows(count=10, mean=8192.0, mean_square=8192.0**2, longest=8192, target_fraction=1.0)
    masked = make_run(shape=model("mistral-7b-v0.1").shape, sequence_length=8192, rows=rows)
    runs = [
        masked,
        replace(masked, flash_attention=True),
        replace(masked, program=UNSLOTH),
        replace(masked, eager_attention=True),
        replace(masked, shape=model("mistral-7b-v0.3").shape),
    ]
    met = [forward(run, rows).attention / (4 * 32 * 4096) for run in runs]

    assert met == [8192, 3072, 3072, 4096, 4096]


def test_only_layers_with_a_window_skip(make_run):
    """Gemma 3 1B: 22 of 26 layers see 512 tokens, the others half of 2,048 on average."""
    rows = Rows(count=10, mean=2048.0, mean_square=2048.0**2, longest=2048, target_fraction=1.0)
    run = make_run(shape=model("gemma-3-1b").shape, sequence_length=2048, rows=rows, flash_attention=True)
    short = Rows(count=10, mean=512.0, mean_square=512.0**2, longest=512, target_fraction=1.0)

    assert forward(run, rows).attention / (4 * 1024) == 22 * (512 - 512**2 / 4096) + 4 * 1024
    assert forward(replace(run, rows=short), short).attention / (4 * 1024) == 26 * 256


def test_the_head_is_computed_where_something_is_learned(make_run):
    everywhere = forward(make_run(loss="full-logits"), ROWS).head

    assert forward(make_run(), ROWS).head == everywhere / 2


def test_rows_of_a_batch_fall_into_micro_batches(make_run):
    padded = step_time.step_of(make_run(), ROWS)
    packed = step_time.step_of(make_run(packing=True), ROWS)

    assert (padded.micro_batches, padded.tokens) == (4, 800.0)
    assert (packed.micro_batches, packed.tokens) == (2, 1600.0)


def test_inputs_gradients_run_at_the_rate_of_their_own_layout(make_run, cpu):
    """One pass of each: the backward pass of a frozen base takes as much longer as its layout is slower."""
    slow = replace(cpu, backward_flops=cpu.training_flops / 10)

    for method in (QV, Full()):
        before, after = (make_run(method=method, device=device) for device in (cpu, slow))
        passes = forward(before, ROWS)
        assert flops(after) - flops(before) == pytest.approx(9.0 * (passes.dense + passes.head))
    same = replace(cpu, backward_flops=cpu.training_flops)
    assert flops(make_run(device=same)) == flops(make_run(device=cpu))


def test_on_a_cpu_weights_and_activations_take_their_own_time(make_run, cpu, gpu):
    run = make_run(device=cpu)

    assert step_time.repack_seconds(run) == pytest.approx(linear_weights(run.shape) / (1.0e9 * cpu.cores))
    assert elementwise(run) > elementwise(make_run()) > 0
    assert step_time.repack_seconds(make_run()) == 0


def test_a_fused_loss_moves_no_logits(make_run):
    plain, fused = (elementwise(make_run(loss=loss)) for loss in ("full-logits", "fused"))

    assert (plain - fused) * make_run().device.bandwidth == pytest.approx(c.LOSS_TRAFFIC * 128_256)


def test_layer_inputs_go_to_the_host_and_back(make_run):
    """28 layers' inputs of 3,072 16-bit numbers, both ways over a slot of 25 GB/s."""
    waits, hides = (make_run(checkpointing=True, program=program) for program in (UNSLOTH, TORCHTUNE))
    moved = [elementwise(replace(kept, offloaded=True)) - elementwise(kept) for kept in (waits, hides)]

    assert moved == pytest.approx([2 * 2 * 3072 * 28 / 25e9, 0])


def test_a_raised_base_computes_head_and_adapters_in_float32(make_run, gpu):
    run = make_run(method=Qlora.of(QV), program=TRANSFORMERS, device=replace(gpu, float32_flops=16e12))
    plain = replace(run, device=gpu)
    # Of the 400 targets' logits, chunks of 256 are computed a second time.
    head = 3 * forward(run, ROWS).head + run.method.adapter_flops(run)

    assert flops(run) - flops(plain) == pytest.approx(9 * head)
    autocast = replace(run, weight_bytes=4)
    assert flops(autocast) == flops(replace(autocast, device=gpu))


def test_chunks_that_are_kept_are_not_computed_again(make_run):
    again, kept = (flops(make_run(loss="chunked", micro_batch=16, program=each)) for each in (FINETREE, TORCHTUNE))
    head = forward(make_run(loss="chunked"), ROWS).head

    assert c.CHUNK_TOKENS > 800
    assert again == kept
    many = [
        step_time.training_flops(run, ROWS, Step(1, 4096.0))
        for run in (make_run(loss="chunked", program=each) for each in (FINETREE, TORCHTUNE))
    ]
    assert many[0] - many[1] == pytest.approx(head)


def test_compilation_leaves_a_third_of_the_layers_traffic_and_half_of_the_calls(make_run):
    eager, compiled = (
        make_run(
            method=Full(),
            master_bytes=2,
            loss="full-logits",
            program=variant(TORCHTUNE, compiled=on, frozen_kept=False),
        )
        for on in (False, True)
    )

    assert step_time.overhead_seconds(compiled) == pytest.approx(0.55 * step_time.overhead_seconds(eager))
    assert 0.2 * elementwise(eager) < elementwise(compiled) < 0.4 * elementwise(eager)


def test_a_loop_of_ones_own_compiles_its_model_not_its_loss(make_run):
    """8 bytes a logit where the loss is compiled, 50 where it is not."""
    own, whole = (
        variant(program, compiled=True, frozen_kept=True) for program in (PYTORCH, replace(PYTORCH, compiles_loss=True))
    )
    slow, fast = (elementwise(make_run(loss="full-logits", program=program)) for program in (own, whole))

    assert (slow - fast) * make_run().device.bandwidth == pytest.approx((50 - 8) * 128_256)


def test_a_step_may_take_less_where_nothing_waits_and_the_loss_is_compiled(make_run, gpu):
    """Waiting for shards hides behind computing, if there is enough of it; the ends of the rate go on top."""
    alone = make_run(loss="full-logits", program=PYTORCH)
    shared = replace(alone, device=replace(gpu, link_bandwidth=240e9), devices=4, sharding="full")
    compiled = replace(alone, program=variant(PYTORCH, compiled=True, frozen_kept=True))
    waiting = 2 * 28 * PYTORCH.gather_overhead

    def spared(run: Run, tokens: float = 8000.0) -> float:
        return step_time.saving_seconds(run, ROWS, Step(1, tokens))

    assert spared(alone) == 0
    assert spared(shared) == pytest.approx(waiting)
    assert 0 < spared(shared, 10.0) < waiting
    assert spared(compiled) == pytest.approx(8000 * 42 * 128_256 / gpu.bandwidth)
    step, tokens = phases.estimate(compiled).step, step_time.step_of(compiled, compiled.rows).tokens
    assert step.low == pytest.approx((step.expected - 4 * spared(compiled, tokens)) / 1.25)


def test_attention_grows_no_faster_than_its_kernel(make_run, gpu):
    """0.81 of the products' rate on an A100, 350 TFLOP/s on whatever is faster than 432; on a CPU all is products."""
    passes = forward(make_run(), ROWS)

    def share(rate: float) -> float:
        run = make_run(device=replace(gpu, training_flops=rate))
        others = 2 * passes.dense + 2 * passes.head + run.method.adapter_flops(run)
        return passes.attention * (1 + c.ATTENTION_BACKWARD) / (flops(run) - others)

    assert share(225e12) == pytest.approx(0.81)
    assert share(1240e12) == pytest.approx(350 / 1240)


def test_a_vocabulary_that_is_no_multiple_of_eight_doubles_the_heads_time_on_tensor_cores(make_run, cpu):
    run = make_run()
    odd = replace(run, shape=replace(run.shape, vocab=run.shape.vocab + 1))
    single = replace(odd, compute_bytes=4, weight_bytes=4)
    heads = [forward(each, ROWS).head for each in (run, odd, replace(odd, device=cpu), single)]

    assert heads[1] == 2 * heads[2]
    assert heads[3] == heads[2]
    assert heads[2] == pytest.approx(heads[0], rel=1e-4)


def test_recomputed_layers_go_forward_twice_and_a_prefix_adds_its_own(make_run):
    plain, again = (make_run(method=Lora(8, PRESETS["query-value"]), checkpointing=on) for on in (False, True))
    layer = moved(plain)

    def added(run: Run, other: Run) -> float:
        """Bytes per token and layer that a run moves beyond another, adapters' own left out."""
        seconds = elementwise(run) - elementwise(other)
        adapters = run.method.adapter_traffic(run) - other.method.adapter_traffic(other)
        return (seconds * run.device.bandwidth - adapters) / 28

    assert added(again, plain) == pytest.approx(layer.forward)
    prefix = make_run(method=Prefix(20))
    assert added(prefix, plain) == pytest.approx(3.6 * prefix.method.saved_inputs(prefix))
