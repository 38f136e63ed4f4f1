# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator.catalog.models import model
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.prefix import Prefix
from finetree_estimator.methods.qlora import Qlora
from finetree_estimator.methods.targets import PRESETS
from finetree_estimator.programs import FINETREE, PYTORCH, TRANSFORMERS, UNSLOTH, variant
from finetree_estimator.run import Rows
from finetree_estimator.timing.elementwise import Traffic, cached_share, layer_traffic
from finetree_estimator.timing.memory_traffic import weight_cast_traffic
from finetree_estimator.timing.step_time import elementwise_seconds

HIDDEN, QUERIES_AND_KEYS, MLP = 3072, 3072 + 1024, 8192
"""Of Llama-3.2-3B."""
ROWS = Rows(count=1000, mean=200.0, mean_square=45_000.0, longest=512, target_fraction=0.5)


def moved(run):
    return layer_traffic(run)


def test_each_step_of_a_plain_layer_reads_and_writes_what_autograd_says(make_run):
    """Two norms of eight steps, rotary embedding of five, two additions, three more gradients of inputs, SiLU x up."""
    found = moved(make_run(program=TRANSFORMERS))

    assert found.forward == 2 * 36 * HIDDEN + 20 * QUERIES_AND_KEYS + 12 * HIDDEN + 10 * MLP
    assert found.backward == 2 * 80 * HIDDEN + 30 * QUERIES_AND_KEYS + (12 + 3 * 6) * HIDDEN + 18 * MLP


def test_hand_fused_kernels_read_and_write_once(make_run):
    run = make_run(program=UNSLOTH)

    assert moved(run).forward == 2 * 4 * HIDDEN + 4 * QUERIES_AND_KEYS + 12 * HIDDEN + 6 * MLP
    assert moved(run).backward == 2 * 6 * HIDDEN + 4 * QUERIES_AND_KEYS + 12 * HIDDEN + 12 * MLP
    # Those that anybody can switch on leave the gradients of one input to autograd.
    liger = make_run(program=variant(TRANSFORMERS, compiled=False, frozen_kept=True, layers="all"))
    assert moved(liger).forward == moved(run).forward
    assert moved(liger).backward == moved(run).backward + 18 * HIDDEN


def test_compilation_leaves_a_third_of_a_plain_layer(make_run):
    eager, compiled = (moved(make_run(program=variant(FINETREE, compiled=on, frozen_kept=True))) for on in (0, 1))

    assert compiled.forward == 2 * 4 * HIDDEN + 4 * QUERIES_AND_KEYS + 8 * HIDDEN + 6 * MLP
    assert compiled.backward == 2 * 6 * HIDDEN + 4 * QUERIES_AND_KEYS + 8 * HIDDEN + 12 * MLP
    assert 0.25 < compiled.forward / eager.forward < 0.4
    assert 0.2 < compiled.backward / eager.backward < 0.4


def test_a_trained_scale_has_a_gradient_too(make_run):
    """It reads the norm's output and its gradient again: four bytes a feature of both norms."""
    trained, frozen = (moved(make_run(method=method, master_bytes=2)) for method in (Full(), Prefix(8)))

    assert trained.forward == frozen.forward
    assert trained.backward - frozen.backward == 2 * 4 * HIDDEN


def test_layer_norm_is_one_kernel_and_a_written_out_gelu_is_many(make_run):
    """GPT-2: no rotary embedding, one joint projection; the MLP of 4 x 768."""
    gpt2 = model("gpt2").shape
    plain, own = (moved(make_run(shape=gpt2, program=program)) for program in (TRANSFORMERS, PYTORCH))

    assert plain.forward == 2 * 4 * 768 + 12 * 768 + 36 * 3072
    assert own.forward == 2 * 4 * 768 + 12 * 768 + 4 * 3072
    assert plain.backward - own.backward == (50 - 6) * 3072


def test_autocast_takes_a_float32_stream_down_for_five_products(make_run):
    """Queries, keys, values, gate and up read it, two norms need no casts; weights are copied for each pass, too."""
    mixed = make_run(program=TRANSFORMERS, method=Full(), weight_bytes=4)
    plain = replace(mixed, weight_bytes=2, master_bytes=2)

    assert moved(mixed).forward - moved(plain).forward == (5 * 6 + 2 * 4 + 2 * (28 - 36)) * HIDDEN
    assert weight_cast_traffic(mixed) == 2 * 6 * 3_212_749_824
    assert weight_cast_traffic(replace(mixed, checkpointing=True)) == 3 * 6 * 3_212_749_824
    shared = replace(mixed, devices=2, sharding="full")
    assert [weight_cast_traffic(run) for run in (plain, shared, make_run())] == [0, 0, 0]


def test_a_mixture_copies_tokens_for_each_expert(make_run):
    mixtral = model("mixtral-8x7b").shape
    dense = replace(mixtral, experts=0, active_experts=0)
    two, one = (moved(make_run(shape=shape)) for shape in (mixtral, dense))

    assert two.forward - one.forward == 10 * mixtral.intermediate + 2 * 16 * mixtral.hidden
    assert two.backward - one.backward == 18 * mixtral.intermediate + 2 * 16 * mixtral.hidden


def test_a_cache_spares_reading_what_it_has_room_for(make_run, gpu):
    """800 tokens of (3072 + 8192) / 2 numbers are 9 MB: in an eighth of 96 MiB, some of them in that of 32."""
    runs = [make_run(device=replace(gpu, cache_bytes=size * 2**20)) for size in (0, 32, 96)]
    shares = [cached_share(run, 800.0) for run in runs]

    assert shares == [0.0, pytest.approx(0.5 * 0.12 * 32 * 2**20 / (800 * 11264)), 0.5]
    assert 80_000 * cached_share(runs[2], 80_000.0) == pytest.approx(8000 * cached_share(runs[2], 8000.0))


def test_a_cache_saves_no_more_than_calls_take(make_run, gpu):
    """Otherwise larger micro-batches were slower: what leaves the cache would cost more than the spared calls."""
    run = make_run(device=replace(gpu, cache_bytes=10**12, bandwidth=gpu.bandwidth / 100))
    spared = make_run(device=replace(run.device, cache_bytes=0))
    seconds = [800.0 * elementwise_seconds(each, ROWS, 800.0) for each in (spared, run)]

    assert seconds[0] - seconds[1] == pytest.approx(28 * 3 * run.program.layer_overhead)


def test_a_raised_base_casts_in_its_packed_layers_alone(make_run):
    """Its stream is float32, but no product of it is autocast's."""
    run = make_run(program=TRANSFORMERS, method=Qlora.of(Lora(8, PRESETS["query-value"])))

    assert run.raises_base
    assert moved(run).forward == 2 * 28 * HIDDEN + 20 * QUERIES_AND_KEYS + 20 * HIDDEN + 10 * MLP


def test_traffic_adds_up():
    assert Traffic(1.0, 2.0).times(3) + Traffic(1.0) == Traffic(4.0, 6.0)
