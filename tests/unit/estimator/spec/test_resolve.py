# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from finetree_estimator.catalog import price_book
from finetree_estimator.catalog.models import model
from finetree_estimator.catalog.names import GIB
from finetree_estimator.catalog.price_book import Owned, Quote
from finetree_estimator.spec.resolve import Knowledge
from finetree_runtime.errors import InvalidArgument, NotFound


def test_devices(run_of):
    known = run_of().device
    rates = '{"matrix_rates": {"bf16_flops_per_second": 2e12}}'
    cpu = run_of(rates, hardware={"cpu": {"cores": 2, "memory_bytes": 8 * GIB}}).device
    guess = run_of(hardware={"cpu": {"cores": 2}}).device
    unknown = run_of(hardware={"unknown_accelerator": {"marketed_memory_gb": 24}}).device

    assert (known.is_cpu, known.usable_bytes) == (False, round(23.52 * GIB))
    assert (cpu.is_cpu, cpu.usable_bytes, cpu.training_flops) == (True, 8 * GIB, pytest.approx(1.8e12))
    assert guess.rate_below > cpu.rate_below
    assert unknown.usable_bytes == round(0.98 * 24 * GIB)
    assert unknown.rate_below > known.rate_below
    assert [remark.code for remark in unknown.remarks] == ["ACCELERATOR_UNKNOWN"]


def test_a_device_of_several_memories_is_told_apart(run_of):
    vague, clear = run_of(hardware={"accelerator": "A100"}).device, run_of(hardware={"accelerator": "a100-80gb"}).device

    assert vague.usable_bytes == clear.usable_bytes
    assert (vague.remarks[0].code, vague.remarks[1:]) == ("ACCELERATOR_MEMORY_ASSUMED", clear.remarks)
    assert "40 GB (a100-40gb)" in vague.remarks[0].message


def test_payment(run_of):
    owned = run_of(
        ownership={"owned": {"price_per_kwh": {"units": 0, "nanos": 300_000_000, "currency_code": "EUR"}}}
    ).payment
    cheapest = run_of(ownership={"rented": {}}).payment
    chosen = run_of(ownership={"rented": {"price_id": "runpod/rtx-4090/2026-07-15"}}).payment

    assert owned == Owned(0.3, "EUR", 0.0)
    assert (type(cheapest), cheapest.hourly, chosen.hourly) == (Quote, 0.35, 0.69)
    assert run_of(hardware={"cpu": {"cores": 2}}).payment is None


def test_a_shape_takes_the_usual_defaults(run_of):
    shape = {"hidden_size": 64, "layers": 2, "intermediate_size": 128, "attention_heads": 4, "vocab_size": 1000}
    found = run_of(model={"shape": shape}).shape

    assert (found.kv_heads, found.head_dim, found.gated) == (4, 16, False)


@pytest.mark.parametrize(
    ("parts", "reason", "hint"),
    [
        ({"model": {"name": "llama-3.2-3"}}, "MODEL_NOT_FOUND", "llama-3.2-3b"),
        ({"model": {"hub": {"id": "meta-llama/Llama-3.2-33B"}}}, "MODEL_NOT_FOUND", "meta-llama/Llama-3.2-3B"),
        ({"model": {"path": "mine"}}, "MODEL_NOT_FOUND", "reads no local models"),
        ({"hardware": {"accelerator": "rtx-4091"}}, "ACCELERATOR_NOT_FOUND", "rtx-4090"),
        ({"ownership": {"rented": {"price_id": "runpod/rtx-4090"}}}, "PRICE_NOT_FOUND", "runpod/rtx-4090/2026-07-15"),
        ({"ownership": {"rented": {"price_id": "runpod/l4/2026-07-15"}}}, "PRICE_NOT_FOUND", "is of l4"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(run_of, parts, reason, hint):
    with pytest.raises(NotFound) as caught:
        run_of(**parts)

    assert caught.value.reason == reason
    assert hint in caught.value.message
    assert "?;" not in caught.value.message


def test_a_system_is_its_devices_and_another_number_beside_it_is_refused(run_of):
    assert run_of(hardware={"accelerator": "dgx a100"}).devices == 8
    with pytest.raises(InvalidArgument, match="is 2, but the name 'dgx a100' says 8"):
        run_of(hardware={"accelerator": "dgx a100", "count": 2})


def test_a_shape_says_everything_that_a_model_of_the_catalog_has(run_of):
    shape = {"family": "gemma3", "norms_per_layer": 4, "norm_bias": True, "head_norms": True, "learned_positions": 64}
    base = {"hidden_size": 64, "layers": 2, "intermediate_size": 8, "attention_heads": 4, "vocab_size": 9}
    found = run_of(model={"shape": base | shape}).shape

    assert (found.family, found.norms_per_layer, found.norm_bias) == ("gemma3_text", 4, True)
    assert (found.head_norms, found.learned_positions) == (True, 64)


def test_an_unknown_family_of_a_shape_is_noted(run_of):
    base = {"hidden_size": 64, "layers": 2, "intermediate_size": 8, "attention_heads": 4, "vocab_size": 9}

    assert "'lama'" in run_of(model={"shape": base | {"family": "lama"}}).remarks[0].message
    assert not run_of(model={"shape": base | {"family": "llama"}}).remarks


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


def test_a_config_json_under_the_model_root_gives_the_catalogs_shape(run_of, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(QWEN))
    found = run_of(knowledge=Knowledge(price_book.packaged(), tmp_path), model={"path": "mine"})

    assert found.shape == model("qwen2.5-0.5b").shape


@pytest.mark.parametrize("path", ["other", "../secret", "mine/../../secret", "link", "/etc"])
def test_a_path_outside_the_model_root_is_not_found(run_of, tmp_path, path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "config.json").write_text(json.dumps(QWEN))
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "secret")

    with pytest.raises(NotFound) as caught:
        run_of(knowledge=Knowledge(price_book.packaged(), tmp_path / "root"), model={"path": path})

    assert caught.value.reason == "MODEL_NOT_FOUND"
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        (json.dumps(QWEN | {"hidden_size": None}), "hidden_size is missing"),
        (json.dumps(QWEN | {"vocab_size": -1}), "vocab_size is -1"),
        (json.dumps(QWEN | {"num_attention_heads": "14"}), "num_attention_heads is '14'"),
    ],
)
def test_a_broken_config_json_is_refused(run_of, tmp_path, content, complaint):
    (tmp_path / "config.json").write_text(content)

    with pytest.raises(InvalidArgument, match=complaint):
        run_of(knowledge=Knowledge(price_book.packaged(), tmp_path), model={"path": "."})
