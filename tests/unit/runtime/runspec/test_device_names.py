# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_runtime.runspec import model_names
from finetree_runtime.runspec.device_names import UNSUPPORTED, Named, by_name, canonical, counted, unsupported


@pytest.mark.parametrize(
    ("name", "count", "plain"),
    [
        ("4x4090", 4, "4090"),
        ("4 x RTX 4090", 4, "RTX 4090"),
        ("2\u00d7 A100 80GB", 2, "A100 80GB"),
        ("8xH100", 8, "H100"),
        ("T4 x2", 2, "T4"),
        ("L40S (x4)", 4, "L40S"),
        ("3080x2", 2, "3080"),
        ("RTX 4090", 0, "RTX 4090"),
        ("GTX 1650", 0, "GTX 1650"),
        ("RX 580", 0, "RX 580"),
        ("", 0, ""),
    ],
)
def test_a_number_before_or_behind_a_name_is_read(name, count, plain):
    assert counted(name) == (count, plain)


@pytest.mark.parametrize(
    ("name", "maker"),
    [
        ("Radeon 7900", "AMD"),
        ("rx6800", "AMD"),
        ("MI50", "AMD"),
        ("M3 Max", "Apple"),
        ("MacBook Pro", "Apple"),
        ("m1", "Apple"),
        ("Intel Iris Xe", "Intel"),
        ("tpu-v3-8", "Google"),
        ("trn1.32xlarge", "AWS"),
        ("Ascend 910B", "Huawei"),
        *(
            (name, None)
            for name in ("RTX 4090", "Tesla M40", "Quadro M4000", "A2", "L4", "Jetson Orin", "", "infinity")
        ),
    ],
)
def test_the_maker_of_an_unknown_accelerator_tells_whether_it_is_supported(name, maker):
    assert unsupported(name) == (UNSUPPORTED[maker] if maker else "")


def test_a_name_is_found_with_its_memory_and_without_the_word_of_its_series():
    cards = [
        (Named(("rtx-1", "Big RTX 1 24GB"), 24), "a"),
        (Named(("v100-32gb",), 32), "b"),
        (Named(("apple-m1",), 0), "c"),
    ]
    index = by_name(cards)
    found = {name: index.get(canonical(name)) for name in ("RTX 1", "1", "rtx 1 24 GB", "V100 32", "M1", "RTX 2")}
    assert found == {"RTX 1": "a", "1": "a", "rtx 1 24 GB": "a", "V100 32": "b", "M1": "c", "RTX 2": None}


def test_a_model_is_found_without_its_organization_and_the_first_of_a_name_has_it():
    index = model_names.by_name([(("m", "Org/M-Instruct"), 1), (("other/m-instruct",), 2)])
    assert index == {"m": 1, "org/m-instruct": 1, "m-instruct": 1, "other/m-instruct": 2}
    assert model_names.find(index, "M instruct") == 1
    found = {name: model_names.find(index, name) for name in ("unsloth/M-Instruct", "Unsloth/n", "another/m", " M ")}
    assert found == {"unsloth/M-Instruct": 1, "Unsloth/n": None, "another/m": None, " M ": 1}


@pytest.mark.parametrize(
    "name", ["llama 3.1 8b", "llama3.1:8b", "Meta-Llama-3.1-8B", "LLAMA_3.1_8B", "Meta Llama 3.1 8B", "llama-3.1-8b "]
)
def test_a_model_is_found_however_it_is_spelled(name):
    index = model_names.by_name([(("llama-3.1-8b", "meta-llama/Llama-3.1-8B"), 1), (("llama-3-8b",), 2)])
    assert model_names.find(index, name) == 1
    assert model_names.find(index, f"somebody/{name}") is None


def test_a_spelling_means_the_name_that_is_listed():
    names = ("qwen2.5-7b", "Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B-Instruct")
    assert model_names.meant(names, "qwen 2.5 7b") == "qwen2.5-7b"
    assert model_names.meant(names, "Qwen 2.5 7B Instruct") == "Qwen/Qwen2.5-7B-Instruct"
    assert model_names.meant(names, "mine") == "mine"


def test_names_that_begin_as_it_is_spelled_are_the_nearest():
    names = ("llama-3.2-1b", "llama-3.1-8b", "llama-3.1-70b", "meta-llama/Llama-3.1-8B")
    assert model_names.nearest(names, "llama3.1")[:2] == ("llama-3.1-8b", "llama-3.1-70b")
    assert model_names.nearest(names, "meta-llama/Llama-3.1-9B") == ("meta-llama/Llama-3.1-8B",)
    assert model_names.nearest(names, "qqq") == ()
