# SPDX-License-Identifier: Apache-2.0
import pytest


def test_deepspeed_keeps_float32_beside_16_bit_weights_on_one_device_too(run_of, program_of):
    """Llama-3-8B under ZeRO-2 on one A100 of 80 GB: 46 GB are held before a step, and the update does not fit."""
    parts = {"full": {}, "precision": "PRECISION_BF16", "model": {"name": "llama-3-8b"}}
    parts["hardware"] = {"accelerator": "a100-80gb", "count": 1}

    plain, deepspeed = (
        run_of(**parts, program=program_of("TRANSFORMERS", sharding_library=library))
        for library in ("UNSPECIFIED", "DEEPSPEED")
    )

    assert [(each.weight_bytes, each.compute_bytes, each.master_bytes) for each in (plain, deepspeed)] == [
        (2, 2, 2),
        (2, 2, 4),
    ]


@pytest.mark.parametrize(
    ("precision", "method", "sizes"),
    [
        ("PRECISION_BF16", {"full": {}}, (2, 2, 2)),
        ("PRECISION_BF16", {"lora": {}}, (2, 2, 4)),
        ("PRECISION_BF16_MIXED", {"full": {}}, (2, 2, 4)),
        ("PRECISION_FP16_MIXED", {"full": {}}, (2, 2, 4)),
        ("PRECISION_FP32", {"full": {}}, (4, 4, 4)),
    ],
)
def test_number_formats(run_of, precision, method, sizes):
    found = run_of(precision=precision, **method)

    assert (found.weight_bytes, found.compute_bytes, found.master_bytes) == sizes


@pytest.mark.parametrize(("library", "weights"), [("FSDP", 4), ("FSDP2", 4), ("DEEPSPEED", 2)])
def test_mixed_precision_gathers_from_float32_shards_unless_deepspeed_has_16_bit_ones(
    run_of, program_of, library, weights
):
    hardware = {"accelerator": "h100", "count": 8, "sharding": "SHARDING_FULL"}
    library = program_of("PYTORCH", sharding_library=library)
    found = run_of(full={}, precision="PRECISION_BF16_MIXED", hardware=hardware, program=library)

    assert (found.weight_bytes, found.compute_bytes, found.master_bytes) == (weights, 2, 4)


def test_steps_and_rows_leave_out_what_is_held_out(run_of):
    found = run_of(training={"epochs": 2, "effective_batch_size": 10}, evaluation={"split_fraction": 0.1})

    assert (found.rows.count, found.steps) == (900, 180)
    assert found.evaluation.rows.count == 100


def test_an_evaluation_profile_wins_over_a_share(run_of):
    text = '{"evaluation_profile": {"examples": 7}}'
    found = run_of(text, evaluation={"split_fraction": 0.1, "before_training": True, "every_steps": 50})

    assert found.evaluation.rows.count == 7
    assert (found.evaluation.before, found.evaluation.after) == (1, 1)
    assert found.evaluation.during == (found.steps - 1) // 50
    assert not found.evaluation.generate


def test_trl_leaves_a_quantized_base_as_it_was_loaded(run_of, program_of):
    """Its SFTTrainer calls no prepare_model_for_kbit_training since 2025-12; a float32 base under autocast is said."""
    parts = {"qlora": {}, "program": program_of("TRANSFORMERS")}
    whole, chunked = (run_of(**parts, loss_kernel=f"LOSS_KERNEL_{kind}") for kind in ("FULL_LOGITS", "CHUNKED"))
    mixed = run_of(**parts, loss_kernel="LOSS_KERNEL_CHUNKED", precision="PRECISION_BF16_MIXED")

    assert (whole.raises_base, chunked.raises_base) == (True, False)
    assert mixed.weight_bytes == 4


def test_a_cpu_computes_in_the_faster_format(run_of):
    rates = '{"matrix_rates": {"bf16_flops_per_second": 1e11, "fp32_flops_per_second": 2e11}}'
    found = run_of(rates, hardware={"cpu": {"cores": 2}})

    assert found.compute_bytes == 4
    assert found.device.training_flops == pytest.approx(1.8e11)


SLOW_BACKWARD = (
    '{"matrix_rates": {"bf16_flops_per_second": 2e11, "bf16_backward_flops_per_second": 1e10,'
    ' "fp32_flops_per_second": 1e11, "fp32_backward_flops_per_second": 9e10}}'
)


def test_a_cpu_computes_in_the_format_that_is_faster_in_both_layouts(run_of):
    found = run_of(SLOW_BACKWARD, hardware={"cpu": {"cores": 2}})

    assert found.compute_bytes == 4
    assert (found.device.training_flops, found.device.backward_flops) == pytest.approx((9e10, 8.1e10))
    assert not [remark for remark in found.remarks if remark.field_path == "spec.precision"]


def test_a_format_that_the_trainer_refuses_has_a_remark(run_of):
    found = run_of(SLOW_BACKWARD, hardware={"cpu": {"cores": 2}}, precision="PRECISION_BF16")

    (remark,) = (remark for remark in found.remarks if remark.field_path == "spec.precision")
    assert remark.code == "NUMBER_FORMAT_TOO_SLOW"
    assert "5 times as long as float32's" in remark.message
    assert found.device.backward_flops == pytest.approx(9e9)


@pytest.mark.parametrize(
    ("program", "experts", "in_turn"),
    [
        ("TRANSFORMERS", "UNSPECIFIED", False),
        ("TRANSFORMERS", "IN_TURN", True),
        ("LITGPT", "UNSPECIFIED", True),
        ("LITGPT", "GROUPED", False),
        ("FINETREE", "GROUPED", False),
    ],
)
def test_experts_are_grouped_unless_they_are_said_to_come_in_turn(run_of, program_of, program, experts, in_turn):
    found = run_of(program=program_of(program, experts=f"EXPERT_PRODUCTS_{experts}"))

    assert found.program.experts_in_turn is in_turn


@pytest.mark.parametrize(
    ("asked", "fused"),
    [
        (("TRANSFORMERS", "FUSED", "UNSPECIFIED"), (True, True)),
        (("AXOLOTL", "FUSED", "PLAIN"), (False, False)),
        (("TRANSFORMERS", "FULL_LOGITS", "UNSPECIFIED"), (False, False)),
        (("TRANSFORMERS", "IN_PLACE", "FUSED"), (True, True)),
        (("TRANSFORMERS", "FUSED", "FUSED_NORMS"), (True, False)),
        (("PYTORCH", "FUSED", "UNSPECIFIED"), (False, False)),
    ],
)
def test_ligers_loss_comes_with_its_layers_unless_something_else_is_said(run_of, program_of, asked, fused):
    program, loss, kernels = asked
    settings = program_of(program, layer_kernels=f"LAYER_KERNELS_{kernels}")
    found = run_of(loss_kernel=f"LOSS_KERNEL_{loss}", program=settings).program

    assert (found.fused_norms, found.fused_activation) == fused
    assert found.overwrites_halves is fused[1]


@pytest.mark.parametrize(
    ("accelerator", "said", "bytes_per_second"),
    [("a100-80gb", {}, 42.5e9), ("h100", {}, 340e9), ("rtx-4090", {}, 10.625e9), ("h100", 200, 21.25e9)],
)
def test_a_network_is_that_of_a_usual_machine_unless_it_is_said(run_of, accelerator, said, bytes_per_second):
    hardware = {"accelerator": accelerator, "count": 16, "nodes": 2, "sharding": "SHARDING_FULL"}
    if said:
        hardware["network_gbits_per_second"] = said
    found = run_of(hardware=hardware)

    assert found.network_bandwidth == pytest.approx(bytes_per_second)
    assert found.network_known is bool(said)


@pytest.mark.parametrize(
    ("asked", "eager"),
    [
        (("gpt-oss-20b", "TRANSFORMERS", "SDPA"), True),
        (("gpt-oss-20b", "TRANSFORMERS", "FLASH"), False),
        (("gpt-oss-20b", "UNSLOTH", "SDPA"), False),
        (("gemma-2-2b", "FINETREE", "SDPA"), True),
        (("gemma-2-2b", "TRANSFORMERS", "SDPA"), False),
        (("llama-3.2-3b", "TRANSFORMERS", "SDPA"), False),
    ],
)
def test_a_model_without_a_kernel_attends_eagerly(run_of, program_of, asked, eager):
    name, program, kernel = asked
    found = run_of(
        model={"name": name},
        program=program_of(program),
        attention=f"ATTENTION_KERNEL_{kernel}",
        lora={"targets": "TARGET_PRESET_ATTENTION"},
    )

    assert found.eager_attention is eager
    assert found.flash_attention is (kernel == "FLASH")
    assert ("ATTENTION_EAGER" in [remark.code for remark in found.remarks]) is eager
