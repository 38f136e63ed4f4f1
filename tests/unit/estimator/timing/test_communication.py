# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.qlora import Qlora
from finetree_estimator.shapes.parameters import linear_weights
from finetree_estimator.timing import communication, phases, step_time


def delay(run):
    return step_time.delay_seconds(run, run.rows, step_time.step_of(run, run.rows))


def test_two_devices_are_less_than_twice_as_fast(make_run):
    one, two = (phases.estimate(make_run(devices=n, method=Full())).step.expected for n in (1, 2))

    assert 1.5 < one / two < 2


def test_sharded_weights_are_gathered_for_every_micro_batch(make_run):
    """Llama-3.1-8B in full on 8 A100: a step takes 0.4 s more than its tokens explain (IBM rows)."""
    copied, sharded = (
        phases.estimate(make_run(devices=8, batch=128, method=Full(), sharding=sharding)).step.expected
        for sharding in ("replicated", "full")
    )

    assert sharded > copied


def test_gptq_and_a_narrow_link_may_hold_a_run_up(make_run, gpu, cpu):
    """AutoGPTQ of 2023 moved 22 bytes more a weight; a board may give a card four lanes of PCIe 3."""
    run = make_run(device=replace(gpu, link_bandwidth=24.8e9))
    lora, plain = run.method, delay(run)
    gptq = delay(replace(run, method=Qlora.of(lora, gptq=True)))
    sharded = replace(run, devices=2, sharding="full")
    nvlink = replace(sharded, device=replace(gpu, link_bandwidth=240e9))

    assert (gptq - plain) * gpu.bandwidth == pytest.approx(2 * 22 * linear_weights(run.shape))
    assert delay(replace(run, method=Qlora.of(lora))) == plain
    assert delay(nvlink) == plain
    assert communication.delay_seconds(sharded, 0.0) == pytest.approx(
        3.21e9 * 2 * (1 / 3.2e9 - 0.07 / 24.8e9), rel=0.01
    )
    assert delay(replace(run, device=cpu)) == 0


def test_packed_weights_travel_packed(make_run, gpu):
    run = make_run(device=replace(gpu, link_bandwidth=24.8e9), devices=2, sharding="full", checkpointing=True)
    packed = replace(run, method=Qlora.of(run.method))

    assert communication.delay_seconds(packed, 0.0) < 0.5 * communication.delay_seconds(run, 0.0)


@pytest.fixture
def machines(make_run, gpu):
    """Llama-3.2-3B in full, sharded over two machines of eight devices whose network reaches 85 % of 400 Gbit/s."""
    return make_run(
        device=replace(gpu, link_bandwidth=240e9),
        method=Full(),
        devices=16,
        nodes=2,
        sharding="full",
        network_bandwidth=42.5e9,
        network_known=True,
    )


GATHERED = 3 * 2 * 3_212_749_824 * 15 / 16
"""Bytes through each link of the ring for a micro-batch: weights twice, gradients once, all but a sixteenth of them."""


def test_a_network_is_waited_for_as_far_as_computing_does_not_hide_it(machines):
    waiting = 2 * 28 * 4.85e-3
    across = GATHERED / 42.5e9
    seconds = [communication.micro_batch_seconds(machines, computing) for computing in (0.0, 0.1, 10.0)]

    assert seconds == pytest.approx([across, across - 0.1, waiting + 0.066 * across])
    inside = replace(machines, nodes=1)
    assert communication.micro_batch_seconds(inside, 0.0) == pytest.approx(waiting + 0.066 * GATHERED / 240e9)
    # A network that is faster than the links inside does not count.
    fast = replace(machines, network_bandwidth=1e12)
    assert communication.micro_batch_seconds(fast, 10.0) == communication.micro_batch_seconds(inside, 10.0)


def test_gradients_of_replicas_cross_a_network_behind_the_backward_pass(machines):
    """All of them in float32, once reduced and once spread."""
    replicas = replace(machines, sharding="replicated", master_bytes=4)
    across = 2 * 4 * 3_212_749_824 * 15 / 16 / 42.5e9

    assert communication.step_seconds(replicas, 0.2) == pytest.approx(across - 0.2)
    assert communication.step_seconds(replicas, 10.0) == pytest.approx(0.066 * across)


def test_a_network_that_is_assumed_may_be_an_eighth_or_no_obstacle(machines):
    assumed = replace(machines, network_known=False)
    across = GATHERED / 42.5e9
    waiting = 2 * 28 * 4.85e-3

    assert communication.delay_seconds(assumed, 0.0) == pytest.approx(8 * across - across)
    assert communication.delay_seconds(machines, 0.0) == pytest.approx(2 * across - across)
    assert communication.saved_seconds(assumed, 0.0) == pytest.approx(across - waiting - 0.066 * across)
    assert communication.saved_seconds(machines, 0.0) == 0


def test_processes_on_one_cpu_are_no_faster_together_than_one(make_run, cpu):
    """The same batch on the same cores; each updates its own copy, and what they tell each other comes on top."""
    one = make_run(device=cpu, method=Full(), batch=16, micro_batch=4)
    part = replace(cpu, training_flops=cpu.training_flops / 2, bandwidth=cpu.bandwidth / 2, cores=1)
    copies = replace(one, device=part, devices=2)
    shards = replace(copies, sharding="full")
    alone, both, sharded = (phases.estimate(run).step for run in (one, copies, shards))

    moved = communication.step_seconds(copies, 0.0)
    assert moved == pytest.approx(2 * 4 * 3_212_749_824 / 2 / 2.0e9)
    assert alone.expected < both.expected - moved < 1.1 * alone.expected
    gathered = communication.micro_batch_seconds(shards, 0.0)
    assert gathered == pytest.approx(3 * 2 * 3_212_749_824 / 2 / 0.4e9)
    assert sharded.expected > both.expected
    assert delay(copies) == 0.0
    assert delay(shards) == pytest.approx(gathered)
