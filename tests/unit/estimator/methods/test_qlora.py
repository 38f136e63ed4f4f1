# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import pytest
from finetree_estimator.catalog.models import model
from finetree_estimator.memory import peak
from finetree_estimator.memory.activations import layer_activations
from finetree_estimator.memory.peak import Component
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.qlora import Qlora
from finetree_estimator.methods.targets import PRESETS
from finetree_estimator.programs import LITGPT, TRANSFORMERS
from finetree_estimator.run import Rows, Run
from finetree_estimator.timing import step_time
from finetree_estimator.timing.step_time import Step

ROWS = Rows(count=1000, mean=200.0, mean_square=45_000.0, longest=512, target_fraction=0.5)
QV = Lora(8, PRESETS["query-value"])


def flops(run):
    return step_time.training_flops(run, ROWS, Step(4, 800.0))


LORA = Lora(8, PRESETS["all-linear"], 0.1)


def parts(run):
    return {kind: interval.expected for kind, interval in peak.estimate(run).components}


GIB = 1024**3


def test_unpacking_a_quantized_base_costs_the_same_for_few_and_many_tokens(make_run):
    plain, quantized = make_run(), make_run(method=Qlora.of(make_run().method))
    extra = step_time.overhead_seconds(quantized) - step_time.overhead_seconds(plain)

    assert extra > 0
    assert flops(quantized) == flops(plain)


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


def test_double_quantization_leaves_an_eighth_of_a_bit(make_run):
    once = parts(make_run(method=Qlora.of(LORA, double_quantized=False)))[Component.QUANTIZATION]
    twice = parts(make_run(method=Qlora.of(LORA, double_quantized=True)))[Component.QUANTIZATION]
    packed = 28 * (3072 * 3072 * 2 + 3072 * 1024 * 2 + 3 * 3072 * 8192)

    assert (once - twice) / packed == pytest.approx(0.0625 - 0.01587, rel=1e-3)


def test_gptq_keeps_a_scale_and_a_zero_point_for_each_group(make_run):
    found = parts(make_run(method=Qlora.of(LORA, gptq=True)))
    packed = 28 * (3072 * 3072 * 2 + 3072 * 1024 * 2 + 3 * 3072 * 8192)

    assert found[Component.BASE_WEIGHTS] - 2 * (3_212_749_824 - packed) == pytest.approx((0.5 + 2.5 / 128) * packed)
    assert found[Component.QUANTIZATION] == 2 * 3072 * 8192


def test_a_quantized_base_keeps_embeddings_in_float32(make_run):
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
        parts(make_run(**mixture, program=replace(TRANSFORMERS, experts_in_turn=in_turn)))[Component.BASE_WEIGHTS]
        for in_turn in (False, True)
    )
    experts = 32 * 8 * 3 * 4096 * 14336

    assert stacked > 2 * experts
    assert packed < 0.6 * experts + 4 * 2e9


def test_litgpt_has_a_head_of_its_own_and_unpacks_it_whole(make_run):
    """Its Llama-3.2-3B has 3.61 billion weights, since its embeddings are not tied (model.py)."""
    plain, packed = (parts(make_run(method=method, program=LITGPT)) for method in (LORA, Qlora.of(LORA)))
    head = 128256 * 3072

    assert plain[Component.BASE_WEIGHTS] == 2 * (3_212_749_824 + head)
    assert packed[Component.QUANTIZATION] == pytest.approx(2 * head + 0.0159 * (2_818_572_288 + head), rel=1e-2)


def test_a_kept_loss_keeps_the_quantized_products_inputs_of_the_micro_batch_before(make_run):
    """bitsandbytes has them as attributes, which no backward pass frees: query, MLP and its last layer, twice each."""
    run = make_run(method=Qlora.of(LORA), program=LITGPT)
    plain = make_run(method=LORA, program=LITGPT)
    kept = 2 * (2 * (2 * 3072 + 8192) + 3072)

    assert layer_activations(run).saved - layer_activations(plain).saved == kept
