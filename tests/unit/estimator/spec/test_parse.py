# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from finetree_api.estimator.v1 import estimate_pb2
from finetree_estimator.catalog import price_book
from finetree_estimator.catalog.models import model
from finetree_estimator.catalog.names import GIB
from finetree_estimator.catalog.price_book import Owned, Rented
from finetree_estimator.methods.adapter import Adapter
from finetree_estimator.methods.full import Full
from finetree_estimator.methods.lora import Lora
from finetree_estimator.methods.prefix import Prefix
from finetree_estimator.methods.qlora import Qlora
from finetree_estimator.run import Run
from finetree_estimator.spec.parse import parse_request
from finetree_estimator.spec.resolve import Knowledge
from finetree_runtime.errors import InvalidArgument, NotFound
from google.protobuf import json_format

KNOWLEDGE = Knowledge(price_book.packaged())
MIXTRAL = {"name": "mixtral-8x7b"}


def request(text: str = "", **parts: object) -> estimate_pb2.EstimateRunRequest:
    spec = {"model": {"name": "llama-3.2-3b"}, "lora": {}, "hardware": {"accelerator": "rtx-4090"}} | parts
    if not any(name in parts for name in ("full", "qlora", "prefix", "adapter", "no_method")):
        spec["lora"] = parts.get("lora", {})
    else:
        spec.pop("lora")
    spec.pop("no_method", None)
    body = {"spec": spec, "dataset_profile": {"examples": 1000}} | (json.loads(text) if text else {})
    return json_format.ParseDict(body, estimate_pb2.EstimateRunRequest())


def run(text: str = "", knowledge: Knowledge = KNOWLEDGE, **parts: object) -> Run:
    return parse_request(request(text, **parts), knowledge).run


def program(name: str, *, sharding_library: str = "UNSPECIFIED", **more: object) -> dict[str, object]:
    library = f"SHARDING_LIBRARY_{sharding_library}"
    return {"program": f"TRAINING_PROGRAM_{name}", "sharding_library": library} | more


@pytest.mark.parametrize(
    ("parts", "method"),
    [
        ({"full": {}}, Full),
        ({"full": {"frozen_layers": 3}}, Full),
        ({"lora": {"rank": 4}}, Lora),
        ({"qlora": {"quantization": "QUANTIZATION_INT8"}}, Qlora),
        ({"prefix": {"virtual_tokens": 30}}, Prefix),
        ({"adapter": {"placement": "ADAPTER_PLACEMENT_HOULSBY"}}, Adapter),
    ],
)
def test_each_method_is_read(parts, method):
    assert type(run(**parts).method) is method


def test_deepspeed_keeps_float32_beside_16_bit_weights_on_one_device_too():
    """Llama-3-8B under ZeRO-2 on one A100 of 80 GB: 46 GB are held before a step, and the update does not fit."""
    parts = {"full": {}, "precision": "PRECISION_BF16", "model": {"name": "llama-3-8b"}}
    parts["hardware"] = {"accelerator": "a100-80gb", "count": 1}

    plain, deepspeed = (
        run(**parts, program=program("TRANSFORMERS", sharding_library=library))
        for library in ("UNSPECIFIED", "DEEPSPEED")
    )

    assert [(each.weight_bytes, each.compute_bytes, each.master_bytes) for each in (plain, deepspeed)] == [
        (2, 2, 2),
        (2, 2, 4),
    ]


def test_settings_of_the_methods_are_read():
    assert run(qlora={"quantization": "QUANTIZATION_INT8"}).method.bits == 8
    assert run(prefix={"virtual_tokens": 30}).method.virtual_tokens == 30
    assert run(adapter={"placement": "ADAPTER_PLACEMENT_HOULSBY"}).method.places == 2
    assert run(lora={"targets": "TARGET_PRESET_MLP"}).method.targets == ("gate_proj", "up_proj", "down_proj")
    assert run(lora={"target_modules": ["q_proj"]}).method.targets == ("q_proj",)


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
def test_number_formats(precision, method, sizes):
    found = run(precision=precision, **method)

    assert (found.weight_bytes, found.compute_bytes, found.master_bytes) == sizes


@pytest.mark.parametrize(("library", "weights"), [("FSDP", 4), ("FSDP2", 4), ("DEEPSPEED", 2)])
def test_mixed_precision_gathers_from_float32_shards_unless_deepspeed_has_16_bit_ones(library, weights):
    hardware = {"accelerator": "h100", "count": 8, "sharding": "SHARDING_FULL"}
    library = program("PYTORCH", sharding_library=library)
    found = run(full={}, precision="PRECISION_BF16_MIXED", hardware=hardware, program=library)

    assert (found.weight_bytes, found.compute_bytes, found.master_bytes) == (weights, 2, 4)


def test_steps_and_rows_leave_out_what_is_held_out():
    found = run(training={"epochs": 2, "effective_batch_size": 10}, evaluation={"split_fraction": 0.1})

    assert (found.rows.count, found.steps) == (900, 180)
    assert found.evaluation.rows.count == 100


def test_an_evaluation_profile_wins_over_a_share():
    text = '{"evaluation_profile": {"examples": 7}}'
    found = run(text, evaluation={"split_fraction": 0.1, "before_training": True, "every_steps": 50})

    assert found.evaluation.rows.count == 7
    assert (found.evaluation.before, found.evaluation.after) == (1, 1)
    assert found.evaluation.during == (found.steps - 1) // 50
    assert not found.evaluation.generate


def test_without_a_profile_the_number_of_steps_is_unknown():
    found = parse_request(estimate_pb2.EstimateRunRequest(spec=request().spec), KNOWLEDGE).run

    assert found.rows is None
    assert found.steps == 0


def test_a_profile_inside_the_spec_is_used():
    spec = request(dataset={"profile": {"examples": 50}}).spec

    assert parse_request(estimate_pb2.EstimateRunRequest(spec=spec), KNOWLEDGE).run.rows.count == 50


def test_trl_leaves_a_quantised_base_as_it_was_loaded():
    """Its SFTTrainer calls no prepare_model_for_kbit_training since 2025-12; a float32 base under autocast is said."""
    parts = {"qlora": {}, "program": program("TRANSFORMERS")}
    whole, chunked = (run(**parts, loss_kernel=f"LOSS_KERNEL_{kind}") for kind in ("FULL_LOGITS", "CHUNKED"))
    mixed = run(**parts, loss_kernel="LOSS_KERNEL_CHUNKED", precision="PRECISION_BF16_MIXED")

    assert (whole.raises_base, chunked.raises_base) == (True, False)
    assert mixed.weight_bytes == 4


def test_devices():
    known = run().device
    rates = '{"matrix_rates": {"bf16_flops_per_second": 2e12}}'
    cpu = run(rates, hardware={"cpu": {"cores": 2, "memory_bytes": 8 * GIB}}).device
    guess = run(hardware={"cpu": {"cores": 2}}).device
    unknown = run(hardware={"unknown_accelerator": {"marketed_memory_gb": 24}}).device

    assert (known.is_cpu, known.usable_bytes) == (False, round(23.52 * GIB))
    assert (cpu.is_cpu, cpu.usable_bytes, cpu.training_flops) == (True, 8 * GIB, pytest.approx(1.8e12))
    assert guess.rate_below > cpu.rate_below
    assert unknown.usable_bytes == round(0.98 * 24 * GIB)
    assert unknown.rate_below > known.rate_below
    assert [remark.code for remark in unknown.remarks] == ["ACCELERATOR_UNKNOWN"]


def test_a_cpu_computes_in_the_faster_format():
    rates = '{"matrix_rates": {"bf16_flops_per_second": 1e11, "fp32_flops_per_second": 2e11}}'
    found = run(rates, hardware={"cpu": {"cores": 2}})

    assert found.compute_bytes == 4
    assert found.device.training_flops == pytest.approx(1.8e11)


def test_a_measured_rate_is_no_part_of_the_resolved_spec():
    cpu = {"cpu": {"cores": 2}}
    rates = '{"matrix_rates": {"bf16_flops_per_second": %g}}'
    slow, fast = (parse_request(request(rates % rate, hardware=cpu), KNOWLEDGE) for rate in (1e11, 2e11))

    assert slow.spec == fast.spec
    assert slow.run.device.training_flops < fast.run.device.training_flops


def test_a_device_of_several_memories_is_told_apart():
    vague, clear = run(hardware={"accelerator": "A100"}).device, run(hardware={"accelerator": "a100-80gb"}).device

    assert vague.usable_bytes == clear.usable_bytes
    assert (vague.remarks[0].code, vague.remarks[1:]) == ("ACCELERATOR_MEMORY_ASSUMED", clear.remarks)
    assert "40 GB (a100-40gb)" in vague.remarks[0].message


def test_payment():
    owned = run(
        ownership={"owned": {"price_per_kwh": {"units": 0, "nanos": 300_000_000, "currency_code": "EUR"}}}
    ).payment
    cheapest = run(ownership={"rented": {}}).payment
    chosen = run(ownership={"rented": {"price_id": "runpod/rtx-4090/2026-07-15"}}).payment

    assert owned == Owned(0.3, "EUR", 0.0)
    assert (type(cheapest), cheapest.hourly, chosen.hourly) == (Rented, 0.35, 0.69)
    assert run(hardware={"cpu": {"cores": 2}}).payment is None


def test_a_shape_takes_the_usual_defaults():
    shape = {"hidden_size": 64, "layers": 2, "intermediate_size": 128, "attention_heads": 4, "vocab_size": 1000}
    found = run(model={"shape": shape}).shape

    assert (found.kv_heads, found.head_dim, found.gated) == (4, 16, False)


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
def test_what_cannot_be_is_refused_with_its_field(parts, field):
    with pytest.raises(InvalidArgument) as caught:
        run(**parts)

    assert caught.value.violations[0].field_path == field


@pytest.mark.parametrize(
    ("parts", "reason", "hint"),
    [
        ({"model": {"name": "llama-3.2-3"}}, "MODEL_NOT_FOUND", "llama-3.2-3b"),
        ({"model": {"hub": {"id": "meta-llama/Llama-3.2-33B"}}}, "MODEL_NOT_FOUND", "meta-llama/Llama-3.2-3B"),
        ({"model": {"path": "mine"}}, "MODEL_NOT_FOUND", "only a trainer knows"),
        ({"hardware": {"accelerator": "rtx-4091"}}, "ACCELERATOR_NOT_FOUND", "rtx-4090"),
        ({"ownership": {"rented": {"price_id": "runpod/rtx-4090"}}}, "PRICE_NOT_FOUND", "runpod/rtx-4090/2026-07-15"),
        ({"ownership": {"rented": {"price_id": "runpod/l4/2026-07-15"}}}, "PRICE_NOT_FOUND", "is for l4"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(parts, reason, hint):
    with pytest.raises(NotFound) as caught:
        run(**parts)

    assert caught.value.reason == reason
    assert hint in caught.value.message


def test_adapters_of_experts_are_read_where_they_are_asked_for():
    targets = run(model=MIXTRAL, lora={"targets": "TARGET_PRESET_MLP", "include_experts": True}).method.targets

    assert targets == ("experts.gate_up_proj", "experts.down_proj")
    assert run(model=MIXTRAL, lora={}).method.targets == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert run(lora={"include_experts": True}).method == run(lora={"dropout": 0}).method


def test_a_shape_says_everything_that_a_model_of_the_catalogue_has():
    shape = {"family": "gemma3", "norms_per_layer": 4, "norm_bias": True, "head_norms": True, "learned_positions": 64}
    base = {"hidden_size": 64, "layers": 2, "intermediate_size": 8, "attention_heads": 4, "vocab_size": 9}
    found = run(model={"shape": base | shape}).shape

    assert (found.family, found.norms_per_layer, found.norm_bias) == ("gemma3_text", 4, True)
    assert (found.head_norms, found.learned_positions) == (True, 64)


def test_an_unknown_family_of_a_shape_is_noted():
    base = {"hidden_size": 64, "layers": 2, "intermediate_size": 8, "attention_heads": 4, "vocab_size": 9}

    assert "'lama'" in run(model={"shape": base | {"family": "lama"}}).remarks[0].message
    assert not run(model={"shape": base | {"family": "llama"}}).remarks


QWEN = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "max_position_embeddings": 32768,
}


def test_a_config_json_under_the_model_root_gives_the_catalogues_shape(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(QWEN))
    found = run(knowledge=Knowledge(price_book.packaged(), tmp_path), model={"path": "mine"})

    assert found.shape == model("qwen2.5-0.5b").shape


@pytest.mark.parametrize("path", ["other", "../secret", "mine/../../secret", "link", "/etc"])
def test_a_path_outside_the_model_root_is_not_found(tmp_path, path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "config.json").write_text(json.dumps(QWEN))
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "secret")

    with pytest.raises(NotFound) as caught:
        run(knowledge=Knowledge(price_book.packaged(), tmp_path / "root"), model={"path": path})

    assert caught.value.reason == "MODEL_NOT_FOUND"
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        (json.dumps(QWEN | {"hidden_size": None}), "hidden_size is missing"),
        (json.dumps(QWEN | {"vocab_size": -1}), "vocab_size is not a sensible number"),
        (json.dumps(QWEN | {"num_attention_heads": "14"}), "num_attention_heads is not"),
    ],
)
def test_a_broken_config_json_is_refused(tmp_path, content, complaint):
    (tmp_path / "config.json").write_text(content)

    with pytest.raises(InvalidArgument, match=complaint):
        run(knowledge=Knowledge(price_book.packaged(), tmp_path), model={"path": "."})


def test_the_request_is_left_as_it_was():
    asked = request()
    before = asked.SerializeToString(deterministic=True)
    parsed = parse_request(asked, KNOWLEDGE)
    parsed.spec.training.epochs = 77

    assert asked.SerializeToString(deterministic=True) == before
    assert parsed.request is asked
