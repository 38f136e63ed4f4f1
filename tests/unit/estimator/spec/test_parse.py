# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_estimator.catalog import price_book
from finetree_estimator.spec.parse import parse_request
from finetree_estimator.spec.resolve import Knowledge
from finetree_runtime.errors import InvalidArgument

MIXTRAL = {"name": "mixtral-8x7b"}


KNOWLEDGE = Knowledge(price_book.packaged())


def test_without_a_profile_the_number_of_steps_is_unknown(request_of):
    found = parse_request(estimate_pb2.EstimateRunRequest(spec=request_of().spec), KNOWLEDGE).run

    assert found.rows is None
    assert found.steps == 0


def test_a_profile_inside_the_spec_is_used(request_of):
    spec = request_of(dataset={"profile": {"examples": 50}}).spec

    assert parse_request(estimate_pb2.EstimateRunRequest(spec=spec), KNOWLEDGE).run.rows.count == 50


def test_a_measured_rate_is_no_part_of_the_resolved_spec(request_of):
    cpu = {"cpu": {"cores": 2}}
    rates = '{"matrix_rates": {"bf16_flops_per_second": %g}}'
    slow, fast = (parse_request(request_of(rates % rate, hardware=cpu), KNOWLEDGE) for rate in (1e11, 2e11))

    assert slow.spec == fast.spec
    assert slow.run.device.training_flops < fast.run.device.training_flops


def test_weights_that_a_run_starts_from_are_kept_and_change_no_number(request_of):
    plain = parse_request(request_of(), KNOWLEDGE)
    going_on = parse_request(request_of(init_from={"path": "adapter"}), KNOWLEDGE)

    assert going_on.spec.init_from.path == "adapter"
    assert going_on.run == plain.run


SHAPE = {"hidden_size": 65, "layers": 2, "intermediate_size": 8, "attention_heads": 4, "vocab_size": 9}


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({"no_method": 1}, "spec.method"),
        ({"hardware": None}, "spec.hardware"),
        ({"full": {"frozen_layers": 28}}, "spec.full.frozen_layers"),
        ({"lora": {"target_modules": ["q_proj", "nope"]}}, "spec.lora.target_modules"),
        ({"qlora": {"lora": {"target_modules": ["nope"]}}}, "spec.qlora.lora.target_modules"),
        ({"model": {"shape": SHAPE}}, "spec.model.shape.head_dim"),
        ({"model": {"shape": SHAPE | {"kv_heads": 3}}}, "spec.model.shape.kv_heads"),
        ({"model": {"shape": SHAPE | {"head_dim": 8, "active_experts": 2}}}, "spec.model.shape.active_experts"),
        ({"model": {"shape": SHAPE | {"head_dim": 8, "experts": 2}}}, "spec.model.shape.active_experts"),
        ({"model": {"shape": SHAPE | {"head_dim": 8, "shared_expert_size": 2}}}, "spec.model.shape.shared_expert_size"),
        ({"model": {"shape": SHAPE | {"head_dim": 8, "dense_layers": 1}}}, "spec.model.shape.dense_layers"),
        ({"model": {"shape": SHAPE | {"attention_heads": 66}}}, "spec.model.shape.attention_heads"),
        (
            {"model": {"shape": SHAPE | {"head_dim": 8, "experts": 2, "active_experts": 1, "dense_layers": 2}}},
            "spec.model.shape.dense_layers",
        ),
        ({"model": MIXTRAL, "lora": {"targets": "TARGET_PRESET_MLP"}}, "spec.lora.targets"),
        (
            {"model": MIXTRAL, "lora": {"include_experts": True, "weight_decomposed": True}},
            "spec.lora.weight_decomposed",
        ),
        ({"prefix": {}, "gradient_checkpointing": "GRADIENT_CHECKPOINTING_FULL"}, "spec.gradient_checkpointing"),
        ({"training": {"micro_batch_size": 8, "effective_batch_size": 4}}, "spec.training.micro_batch_size"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(run_of, parts, field):
    with pytest.raises(InvalidArgument) as caught:
        run_of(**parts)

    assert caught.value.violations[0].field_path == field


def test_the_request_is_left_as_it_was(request_of):
    asked = request_of()
    before = asked.SerializeToString(deterministic=True)
    parsed = parse_request(asked, KNOWLEDGE)
    parsed.spec.training.epochs = 77

    assert asked.SerializeToString(deterministic=True) == before
    assert parsed.request is asked


def test_a_cpu_has_the_inputs_of_layers_in_the_hosts_memory_as_they_are(request_of):
    for hardware, offloaded in (({"cpu": {"cores": 2}}, False), ({"accelerator": "h100"}, True)):
        kept, moved = (
            parse_request(
                request_of(gradient_checkpointing=f"GRADIENT_CHECKPOINTING_{how}", hardware=hardware), KNOWLEDGE
            )
            for how in ("FULL", "OFFLOADED")
        )
        assert moved.run.checkpointing
        assert moved.run.offloaded is offloaded
        assert not kept.run.offloaded
