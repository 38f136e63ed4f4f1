# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_estimator.catalog.models import model
from finetree_estimator.memory.activations import layer_activations
from finetree_estimator.memory.model_states import model_states
from finetree_estimator.memory.step_peak import kept_activations
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.qlora import Qlora
from finetree_estimator.methods.targets import PRESETS
from finetree_estimator.programs import AXOLOTL, TRANSFORMERS, variant
from finetree_estimator.run import Rows

LORA = Lora(8, PRESETS["all-linear"], 0.1)
DEEPSPEED = variant(TRANSFORMERS, compiled=False, frozen_kept=False, casts_module=True)
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LLAMA = model("llama-3.1-8b").shape


def test_short_rows_need_less_than_the_limit_allows(make_run):
    short = Rows(count=1000, mean=50.0, mean_square=2600.0, longest=64, target_fraction=0.5)

    assert make_run(rows=short).peak_tokens == 4 * 64
    assert make_run(rows=None).peak_tokens == 4 * 512
    only_mean = Rows(count=1000, mean=50.0, mean_square=2500.0, longest=512, target_fraction=0.5, longest_known=False)
    assert make_run(rows=only_mean).peak_tokens == 4 * 512
    assert make_run(rows=only_mean, packing=True).peak_tokens == 16 * 50 + 3 * 50 * 4
    # Packing fills a micro-batch, but never with more than the batch has.
    assert make_run(rows=short, packing=True).peak_tokens == pytest.approx(16 * 50 + 3 * 10 * 4)


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
    assert kept_activations(run, layer_activations(run)) == outside * 28 * 3072


def test_a_module_that_is_cast_has_no_float32_beside_its_shards(make_run):
    """DeepSpeed's engine calls `bfloat16()` or `half()` on all of it, whatever PEFT raised before."""
    shared = {"devices": 8, "sharding": "gradients", "checkpointing": True}
    plain, cast = (make_run(program=program, method=Qlora.of(LORA), **shared) for program in (TRANSFORMERS, DEEPSPEED))
    full = make_run(program=DEEPSPEED, method=Full(), weight_bytes=2, master_bytes=4, **shared)

    assert [run.stream_bytes for run in (plain, cast, full)] == [4, 2, 2]
    assert model_states(plain).base_weights - model_states(cast).base_weights > 0


def test_axolotl_leaves_what_is_not_packed_as_it_was_loaded(make_run):
    base = Qlora.of(Lora(16, ALL, 0.05))
    raised, left = (make_run(shape=LLAMA, method=base, program=program) for program in (TRANSFORMERS, AXOLOTL))

    assert (raised.stream_bytes, left.stream_bytes) == (4, 2)
