# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_estimator.catalog.models import model
from finetree_estimator.memory import peak
from finetree_estimator.memory.model_states import model_states
from finetree_estimator.memory.peak import Component
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.targets import PRESETS
from finetree_estimator.programs import TORCHTUNE, TRANSFORMERS, variant
from finetree_estimator.run import Run

GIB = 1024**3


def parts(run):
    return {kind: interval.expected for kind, interval in peak.estimate(run).components}


DEEPSPEED = variant(TRANSFORMERS, compiled=False, frozen_kept=False, casts_module=True)
LLAMA = model("llama-3.1-8b").shape
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


def test_a_16_bit_base_is_two_bytes_a_parameter(make_run):
    assert parts(make_run())[Component.BASE_WEIGHTS] == 2 * 3_212_749_824


def test_adapters_cost_sixteen_bytes_a_parameter_with_adamw(make_run):
    found = parts(make_run(method=Lora(32, PRESETS["query-value"])))

    assert found[Component.TRAINABLE_WEIGHTS] == 4 * 9_175_040
    assert found[Component.GRADIENTS] == 4 * 9_175_040
    assert found[Component.OPTIMIZER_STATES] == 8 * 9_175_040


def test_pure_bf16_full_fine_tuning_costs_eight_bytes_a_parameter(make_run):
    found = parts(make_run(method=Full(), master_bytes=2))
    states = found[Component.BASE_WEIGHTS] + found[Component.GRADIENTS] + found[Component.OPTIMIZER_STATES]

    # PEFT's full fine-tuning of this model: 23.9 GiB of its 36.2 (reference, 3.3).
    assert states / GIB == pytest.approx(23.9, abs=0.05)
    assert Component.TRAINABLE_WEIGHTS not in found


def test_mixed_precision_full_fine_tuning_costs_eighteen_bytes_a_parameter(make_run):
    found = parts(make_run(method=Full(), master_bytes=4))
    fixed = (Component.BASE_WEIGHTS, Component.TRAINABLE_WEIGHTS, Component.GRADIENTS, Component.OPTIMIZER_STATES)

    assert sum(found[kind] for kind in fixed) == 18 * 3_212_749_824


@pytest.mark.parametrize(
    ("optimizer", "per_parameter"), [("sgd", 0), ("adamw-8bit", 2.05), ("paged-adamw-8bit", 0), ("adamw", 4)]
)
def test_optimizer_states(make_run, optimizer, per_parameter):
    found = parts(make_run(method=Full(), master_bytes=2, optimizer=optimizer))

    assert found.get(Component.OPTIMIZER_STATES, 0) == pytest.approx(per_parameter * 3_212_749_824)


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


def test_chunks_of_a_loss_add_to_a_trained_heads_gradient_beside_the_logits(make_run):
    tuned = make_run(
        program=TORCHTUNE, method=Full(), loss="chunked", master_bytes=2, batch=4, checkpointing=True, rows=None
    )
    head = 2 * 128256 * 3072

    holds = model_states(tuned)
    assert (holds.head_gradient, holds.chunk_gradient) == (head, head)
    assert model_states(make_run()).head_gradient == 0


@pytest.mark.parametrize(("bytes_", "copies"), [(2, 4), (4, 2)])
def test_adafactor_updates_a_tensor_in_float32(make_run, bytes_, copies):
    """As many as a profile of transformers' Adafactor.step counts on a CPU (4.00 and 2.00)."""
    whole = {"method": Full(), "weight_bytes": bytes_, "master_bytes": bytes_, "compute_bytes": bytes_}
    run = make_run(shape=model("qwen2.5-0.5b").shape, optimizer="adafactor", program=TRANSFORMERS, **whole)

    assert model_states(run).update_copies == copies * 4 * run.shape.vocab * run.shape.hidden
    assert model_states(make_run(optimizer="adafactor")).update_copies == 0


def test_a_loss_in_chunks_adds_up_16_bit_gradients_of_a_gathered_head(sharded):
    one, eight = (model_states(sharded(devices=devices)) for devices in (1, 8))

    assert (one.head_gradient, eight.head_gradient) == (4 * MATRIX, 2 * MATRIX)
