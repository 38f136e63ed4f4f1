# SPDX-License-Identifier: Apache-2.0
"""What Unsloth's kernels keep, and what Axolotl leaves as it was loaded."""

import pytest
from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_estimator.catalog import prices
from finetree_estimator.catalog.accelerators import accelerator
from finetree_estimator.catalog.models import model
from finetree_estimator.memory import activations
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.qlora import Qlora
from finetree_estimator.programs import AXOLOTL, TRANSFORMERS, UNSLOTH
from finetree_estimator.servicer import EstimatorServicer
from finetree_estimator.spec.resolve import Knowledge

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LLAMA = model("llama-3.1-8b").shape
WIDE = 2 * LLAMA.intermediate


@pytest.mark.parametrize(
    ("targets", "dropout", "fused"),
    [(ALL, 0.0, True), (ALL, 0.05, False), (ALL[:-1], 0.0, False)],
    ids=["fused", "dropout", "down_proj is not adapted"],
)
def test_a_fused_mlp_keeps_the_halves_before_its_gate_and_overwrites_them(make_run, targets, dropout, fused):
    """LoRA_MLP saves its input, e and g (Unsloth's kernels/fast_lora.py) and computes the rest again, in place."""
    layer = activations.layer_activations(make_run(shape=LLAMA, method=Lora(16, targets, dropout), program=UNSLOTH))

    assert layer.mlp == (2 if fused else 3) * WIDE
    assert layer.gradients == (1 if fused else 3) * WIDE + 4 * 2 * LLAMA.hidden


def test_a_fused_mlp_keeps_no_input_of_its_last_adapter(make_run):
    with_it, without = (
        activations.layer_activations(make_run(shape=LLAMA, method=Lora(16, targets), program=UNSLOTH))
        for targets in (ALL, ALL[:-1])
    )

    assert with_it.trained_inputs == without.trained_inputs


def test_axolotl_leaves_what_is_not_packed_as_it_was_loaded(make_run):
    base = Qlora.of(Lora(16, ALL, 0.05))
    raised, left = (make_run(shape=LLAMA, method=base, program=program) for program in (TRANSFORMERS, AXOLOTL))

    assert (raised.stream_bytes, left.stream_bytes) == (4, 2)


@pytest.mark.parametrize(
    ("name", "card", "longest"),
    [
        ("llama-3.1-8b", "rtx-4060", 2972),
        ("llama-3.1-8b", "rtx-3060", 21848),
        ("llama-3.1-8b", "rtx-4080", 40724),
        ("llama-3.1-8b", "rtx-4090", 78475),
        ("llama-3.1-70b", "rtx-6000-ada", 12106),
        ("llama-3.1-70b", "a100-80gb", 89389),
    ],
)
def test_unsloths_longest_rows_fill_the_cards_that_they_were_published_for(name, card, longest):
    """Its README's context lengths: QLoRA of rank 32 on all linear layers, a row at a time, its own checkpointing."""
    lora = rs.Lora(rank=32, dropout=0.0, target_modules=ALL)
    spec = rs.RunSpec(
        model=rs.ModelSource(name=name),
        qlora=rs.Qlora(lora=lora, quantization=rs.QUANTIZATION_NF4, double_quantization=True),
        training=rs.Training(micro_batch_size=1, effective_batch_size=1, sequence_length=longest),
        gradient_checkpointing=rs.GRADIENT_CHECKPOINTING_OFFLOADED,
        loss_kernel=rs.LOSS_KERNEL_FUSED,
        optimizer=rs.OPTIMIZER_ADAMW_8BIT,
        precision=rs.PRECISION_BF16,
        hardware=rs.Hardware(accelerator=card),
    )
    request = pb.EstimateRunRequest(spec=spec, program=pb.TRAINING_PROGRAM_UNSLOTH)
    peak = EstimatorServicer(Knowledge(prices.packaged())).estimate(request).memory.device_bytes

    assert peak.expected == pytest.approx(accelerator(card).usable_bytes, rel=0.1)
