# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator import constants as c
from finetree_estimator.catalog.models import model
from finetree_estimator.catalog.parameters import linear_weights
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.prefix import Prefix
from finetree_estimator.methods.qlora import Qlora
from finetree_estimator.methods.targets import PRESETS
from finetree_estimator.programs import FINETREE, PYTORCH, TORCHTUNE, TRANSFORMERS, variant
from finetree_estimator.run import EvaluationPlan, Rows, Run
from finetree_estimator.timing import communication, memory_traffic, step_time
from finetree_estimator.timing import phases as durations
from finetree_estimator.timing.elementwise import layer_traffic
from finetree_estimator.timing.phases import Phase
from finetree_estimator.timing.step_time import Step

ROWS = Rows(count=1000, mean=200.0, mean_square=45_000.0, longest=512, target_fraction=0.5)
QV = Lora(8, PRESETS["query-value"])


def flops(run):
    return step_time.training_flops(run, ROWS, Step(4, 800.0))


def forward(run, rows):
    return step_time.forward_flops(run, rows)


def elementwise(run):
    return step_time.elementwise_seconds(run, ROWS)


def matrix_part(run):
    """FLOPs of the layers' weights per token, in units of the weights of their projections."""
    return forward(run, ROWS).dense / linear_weights(run.shape)


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


def test_the_head_is_computed_where_something_is_learned(make_run):
    everywhere = forward(make_run(loss="full-logits"), ROWS).head

    assert forward(make_run(), ROWS).head == everywhere / 2


def test_rows_of_a_batch_fall_into_micro_batches(make_run):
    padded = step_time.step_of(make_run(), ROWS)
    packed = step_time.step_of(make_run(packing=True), ROWS)

    assert (padded.micro_batches, padded.tokens) == (4, 800.0)
    assert (packed.micro_batches, packed.tokens) == (2, 1600.0)


def test_unpacking_a_quantised_base_costs_the_same_for_few_and_many_tokens(make_run):
    plain, quantized = make_run(), make_run(method=Qlora.of(make_run().method))
    extra = step_time.overhead_seconds(quantized) - step_time.overhead_seconds(plain)

    assert extra > 0
    assert flops(quantized) == flops(plain)


def test_phases_add_up_and_steps_make_the_training(make_run):
    times = durations.estimate(make_run())
    phases = dict(times.phases)

    assert times.total.expected == pytest.approx(sum(phase.expected for phase in phases.values()))
    assert phases[Phase.TRAIN].expected == pytest.approx(189 * times.step.expected)
    assert times.processed_tokens == 189 * 3200
    assert times.tokens_per_second.expected == pytest.approx(3200 / times.step.expected)


@pytest.mark.parametrize(("optimizer", "times"), [("adamw", 3.0), ("adamw-8bit", 2.0), ("sgd", 1.0)])
def test_a_checkpoint_holds_the_optimizers_states_as_they_are(make_run, optimizer, times):
    """States of AdamW are two numbers of the weights' format, or two bytes; plain SGD has none."""
    run = make_run(method=Full(), master_bytes=2, optimizer=optimizer, checkpoints=4)
    artifact = 2 * 3_212_749_824

    written = durations.save_seconds(run) * c.DISK_BYTES_PER_SECOND
    assert written == pytest.approx((4 * times + 1) * artifact, rel=0.03)


def test_without_rows_there_is_no_time(make_run):
    assert durations.estimate(make_run(rows=None, steps=0)) is None


HELD_OUT = Rows(count=100, mean=200.0, mean_square=45_000.0, longest=512, target_fraction=0.1)


def evaluation(run, **changes: object) -> float:
    return durations.evaluation_seconds(run, EvaluationPlan(rows=HELD_OUT, **changes))


def test_each_look_at_the_loss_costs_the_same(make_run):
    run = make_run()

    assert evaluation(run, before=1, during=3, after=1) == pytest.approx(5 * evaluation(run, after=1))
    assert evaluation(run) == 0
    assert durations.evaluation_seconds(run, EvaluationPlan()) == 0


def test_answers_that_tell_the_best_evaluation_cost_at_each_look(make_run):
    run = make_run()
    asked = {"generate": True, "max_new_tokens": 64}
    one = evaluation(run, after=1, **asked)

    assert evaluation(run, during=3, after=1, generate_during=True, **asked) == pytest.approx(4 * one)
    assert evaluation(run, during=3, after=1, **asked) < 2 * one


def test_an_untrained_model_answers_to_the_limit_and_a_trained_one_stops(make_run):
    run = make_run()
    before = [evaluation(run, generate=True, before=1, max_new_tokens=n) for n in (8, 512)]
    after = [evaluation(run, generate=True, after=1, max_new_tokens=n) for n in (8, 512)]

    assert before[0] == after[0]
    assert before[1] > 10 * before[0]
    assert after[1] < before[1] / 8


def test_on_a_cpu_weights_and_activations_take_their_own_time(make_run, cpu, gpu):
    run = make_run(device=cpu)

    assert step_time.repack_seconds(run) == pytest.approx(linear_weights(run.shape) / (1.0e9 * cpu.cores))
    assert elementwise(run) > elementwise(make_run()) > 0
    assert step_time.repack_seconds(make_run()) == 0


def test_a_fused_loss_moves_no_logits_and_comes_with_fused_kernels(make_run):
    plain, fused = (elementwise(make_run(loss=loss)) for loss in ("full-logits", "fused"))

    run = make_run()
    kernels = sum(
        sign * (moved.forward + moved.backward)
        for sign, moved in ((28, layer_traffic(run, fused=False)), (-28, layer_traffic(run, fused=True)))
    )
    assert (plain - fused) * run.device.bandwidth == pytest.approx(c.LOSS_TRAFFIC * 128_256 + kernels)


def test_virtual_tokens_cost_attention(make_run):
    few, many = (forward(make_run(method=Prefix(n)), ROWS).attention for n in (10, 110))

    assert many - few == 28 * 3072 * 4 * 100


def test_two_devices_are_less_than_twice_as_fast(make_run):
    one, two = (durations.estimate(make_run(devices=n, method=Full())).step.expected for n in (1, 2))

    assert 1.5 < one / two < 2


def test_sharded_weights_are_gathered_for_every_micro_batch(make_run):
    """Llama-3.1-8B in full on 8 A100: a step takes 0.4 s more than its tokens explain (IBM rows)."""
    copied, sharded = (
        durations.estimate(make_run(devices=8, batch=128, method=Full(), sharding=sharding)).step.expected
        for sharding in ("replicated", "full")
    )

    assert sharded > copied


def test_a_time_is_as_wide_as_the_rate_and_what_may_hold_a_micro_batch_up(make_run):
    run = make_run()
    step, held_up = durations.estimate(run).step, step_time.held_up_seconds(run)

    assert step.low / step.expected == pytest.approx(1 / 1.25)
    assert step.high == pytest.approx(step.expected / 0.7 + 4 * held_up)
    assert 0 < 4 * held_up < 0.3 * step.expected
    assert step_time.held_up_seconds(make_run(checkpointing=True)) == pytest.approx(4 / 3 * held_up)


def test_gptq_and_a_narrow_link_may_hold_a_run_up(make_run, gpu, cpu):
    """AutoGPTQ of 2023 moved 22 bytes more a weight; a board may give a card four lanes of PCIe 3."""
    run = make_run(device=replace(gpu, link_bandwidth=24.8e9))
    lora, plain = run.method, step_time.held_up_seconds(run)
    gptq = step_time.held_up_seconds(replace(run, method=Qlora.of(lora, gptq=True)))
    sharded = replace(run, devices=2, sharding="full")
    nvlink = replace(sharded, device=replace(gpu, link_bandwidth=240e9))

    assert (gptq - plain) * gpu.bandwidth == pytest.approx(2 * 22 * linear_weights(run.shape))
    assert step_time.held_up_seconds(replace(run, method=Qlora.of(lora))) == plain
    assert step_time.held_up_seconds(nvlink) == plain
    assert communication.held_up_seconds(sharded) == pytest.approx(3.21e9 * 2 * (1 / 3.2e9 - 0.07 / 24.8e9), rel=0.01)
    assert step_time.held_up_seconds(replace(run, device=cpu)) == 0


def test_packed_weights_travel_packed(make_run, gpu):
    run = make_run(device=replace(gpu, link_bandwidth=24.8e9), devices=2, sharding="full", checkpointing=True)
    packed = replace(run, method=Qlora.of(run.method))

    assert communication.held_up_seconds(packed) < 0.5 * communication.held_up_seconds(run)


def test_adapters_of_peft_move_many_bytes_around_two_thin_products(make_run):
    """A projection of 3072 on 3072 under dropout, 16-bit stream and float32 adapters: 19 + 29 in, 28 + 22 out."""
    method = Lora(8, ("q_proj",), 0.1)
    run = make_run(method=method, program=TRANSFORMERS)
    moved = [
        each.method.adapter_traffic(each) / (28 * 3072)
        for each in (
            run,
            replace(run, checkpointing=True),
            replace(run, method=Lora(64, ("q_proj",))),
            replace(run, devices=2, sharding="full"),
        )
    ]
    full = make_run(method=Full())

    assert moved == [19 + 29 + 28 + 22, 2 * 19 + 29 + 2 * 28 + 22, 10 + 20 + 28 + 22, 7 + 15 + 12 + 8]
    assert full.method.adapter_traffic(full) == 0


def test_a_raised_base_computes_head_and_adapters_in_float32(make_run, gpu):
    run = make_run(method=Qlora.of(QV), program=TRANSFORMERS, device=replace(gpu, float32_flops=16e12))
    plain = replace(run, device=gpu)
    head = 2 * forward(run, ROWS).head + run.method.adapter_flops(run)

    assert flops(run) - flops(plain) == pytest.approx(9 * head)
    autocast = replace(run, weight_bytes=4)
    assert flops(autocast) == flops(replace(autocast, device=gpu))


def test_dora_goes_over_the_adapted_weights_in_each_forward_pass(make_run):
    plain = make_run(method=Lora(8, ("q_proj",)), program=TRANSFORMERS)
    dora = replace(plain, method=replace(plain.method, weight_decomposed=True))
    weights, numbers = 28 * 3072 * 3072, 28 * 3072

    assert dora.method.decomposition_traffic(dora) == 18 * weights
    assert plain.method.decomposition_traffic(plain) == 0
    assert dora.method.adapter_traffic(dora) - plain.method.adapter_traffic(plain) == 2 * 16 * numbers
    extra = step_time.overhead_seconds(dora) - step_time.overhead_seconds(plain)
    again = replace(dora, checkpointing=True), replace(plain, checkpointing=True)
    assert extra * plain.device.bandwidth == pytest.approx(18 * weights)
    assert step_time.overhead_seconds(again[0]) - step_time.overhead_seconds(again[1]) == pytest.approx(2 * extra)


def test_products_behind_a_raised_base_cast_what_they_read_and_write(make_run):
    """Six bytes a number and pass, of what Llama-3.2-3B's seven projections read and write in a layer."""
    run = make_run(method=Qlora.of(QV), program=TRANSFORMERS)
    numbers = 28 * (2 * (3072 + 3072) + 2 * (3072 + 1024) + 3 * (3072 + 8192))

    def casts(run: Run) -> float:
        """Bytes that a raised stream adds, the adapters' own left out."""
        adapters = Lora.adapter_traffic(run.method, run)
        return run.method.adapter_traffic(run) - adapters

    assert casts(run) == 2 * 6 * numbers
    assert casts(replace(run, checkpointing=True)) == 3 * 6 * numbers
    assert casts(make_run(method=Qlora.of(QV))) == casts(replace(run, method=QV)) == 0


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
        return step_time.spared_seconds(run, ROWS, Step(1, tokens))

    assert spared(alone) == 0
    assert spared(shared) == pytest.approx(waiting)
    assert 0 < spared(shared, 10.0) < waiting
    assert spared(compiled) == pytest.approx(8000 * 42 * 128_256 / gpu.bandwidth)
    step, tokens = durations.estimate(compiled).step, step_time.step_of(compiled, compiled.rows).tokens
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


def test_plain_attention_goes_over_its_scores_again_and_again(make_run):
    """24 bytes forward and 34 backward for each score of a padded row; a fused kernel moves none of them."""
    eager, fused = make_run(eager_attention=True), make_run()
    scores = 28 * 24 * 512

    assert memory_traffic.score_traffic(eager) == (24 + 34) * scores
    assert memory_traffic.score_traffic(replace(eager, checkpointing=True)) == (2 * 24 + 34) * scores
    moved = (elementwise(eager) - elementwise(fused)) * eager.device.bandwidth
    assert moved == pytest.approx(memory_traffic.score_traffic(eager))


@pytest.mark.parametrize(
    ("program", "numbers", "moved"),
    [
        (PYTORCH, {"master_bytes": 2}, 24 + 34),
        (PYTORCH, {"master_bytes": 4}, 32 + 38),
        (PYTORCH, {"master_bytes": 4, "devices": 2, "sharding": "full"}, 24 + 34),
        (TRANSFORMERS, {"master_bytes": 4}, 24 + 34),
        (PYTORCH, {"master_bytes": 4, "compute_bytes": 4}, 32 + 36),
        (variant(PYTORCH, compiled=True, frozen_kept=True), {"master_bytes": 4}, 8 + 12),
    ],
)
def test_scores_are_copied_for_a_softmax_under_autocast_and_fused_by_compilation(make_run, program, numbers, moved):
    run = make_run(eager_attention=True, method=Full(), program=program, **numbers)

    assert memory_traffic.score_traffic(run) == moved * 28 * 24 * 512


def test_a_vocabulary_that_is_no_multiple_of_eight_doubles_the_heads_time_on_tensor_cores(make_run, cpu):
    run = make_run()
    odd = replace(run, shape=replace(run.shape, vocab=run.shape.vocab + 1))
    single = replace(odd, compute_bytes=4, weight_bytes=4)
    heads = [forward(each, ROWS).head for each in (run, odd, replace(odd, device=cpu), single)]

    assert heads[1] == 2 * heads[2]
    assert heads[3] == heads[2]
    assert heads[2] == pytest.approx(heads[0], rel=1e-4)


def test_experts_in_turn_take_a_layers_calls_each(make_run):
    mixture = make_run(shape=model("mixtral-8x7b").shape, method=QV, program=TRANSFORMERS)
    stacked = replace(mixture, program=FINETREE)

    calls = [step_time.overhead_seconds(run) / (3 * run.shape.layers) for run in (mixture, stacked)]
    assert calls == pytest.approx([9 * TRANSFORMERS.layer_overhead, FINETREE.layer_overhead])


@pytest.mark.parametrize(
    ("optimizer", "program", "bytes_moved"),
    [
        ("adamw", FINETREE, 4 * (7 + 3)),
        ("adamw", TRANSFORMERS, 4 * (20 + 3)),
        ("adamw-8bit", TRANSFORMERS, 4 * (3 + 3) + 4),
        ("paged-adamw-8bit", FINETREE, 4 * (3 + 3) + 4),
        ("sgd", TRANSFORMERS, 4 * (3 + 3)),
        ("adafactor", TRANSFORMERS, 4 * (18 + 3)),
    ],
)
def test_an_update_moves_what_its_optimizer_reads_and_writes(make_run, cpu, optimizer, program, bytes_moved):
    run = make_run(optimizer=optimizer, program=program)
    trained = run.trainable_parameters

    assert memory_traffic.update_traffic(run) == trained * bytes_moved
    assert memory_traffic.update_traffic(replace(run, device=cpu)) == trained * (bytes_moved - 4 * 3)
