# SPDX-License-Identifier: Apache-2.0
"""Configurations and tokenizers in the spellings of transformers 4 and 5."""

import json

import pytest
from finetree_worker.models.portable_files import copy_image_settings, in_both_spellings, newer_only, save_tokenizer


def config(rope, **more: object):
    return {"model_type": "llama", "rope_parameters": rope, **more}


def added(given):
    """What is added; nothing that was there is changed."""
    found = in_both_spellings(given)
    assert {name: found[name] for name in given} == given
    return {name: value for name, value in found.items() if name not in given}


def test_plain_positions_have_a_base_frequency_and_no_scaling():
    assert added(config({"rope_type": "default", "rope_theta": 100000.0})) == {"rope_theta": 100000.0}


def test_scaled_positions_keep_their_settings():
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    found = added(config({**scaling, "rope_theta": 5e5, "partial_rotary_factor": 0.5}))
    assert found == {"rope_theta": 5e5, "partial_rotary_factor": 0.5, "rope_scaling": scaling}


def test_positions_of_text_and_images_keep_their_parts():
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    scaling = {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    assert added(config(rope)) == {"rope_theta": 5e6, "rope_scaling": scaling}


def test_what_the_base_says_of_images_is_written_as_it_is(tmp_path):
    base, made = tmp_path / "base", tmp_path / "made"
    base.mkdir()
    made.mkdir()
    (base / "preprocessor_config.json").write_text('{"image_mean": [0.5]}', encoding="utf-8")
    (base / "processor_config.json").write_text("x" * (1 << 20 | 1), encoding="utf-8")
    (base / "notes.json").write_text("{}", encoding="utf-8")
    copy_image_settings(base, made)
    assert [file.name for file in made.iterdir()] == ["preprocessor_config.json"]
    assert (made / "preprocessor_config.json").read_text(encoding="utf-8") == '{"image_mean": [0.5]}'


def test_positions_by_layer_type_have_the_names_of_gemma_3():
    full = {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
    rope = {"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    found = added(config(rope, model_type="gemma3_text"))
    scaling = {"rope_type": "linear", "factor": 8.0}
    assert found == {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": scaling}


def test_other_layer_types_need_the_newer_version():
    given = config({"full_attention": {"rope_theta": 1e6}, "compressed_attention": {"rope_theta": 1e4}})
    assert added(given) == {}
    assert newer_only(given).startswith("needs transformers 5 or newer")


@pytest.mark.parametrize(
    ("part", "kind", "reason"),
    [
        ("text_config", "ministral3", "'ministral3'"),
        ("vision_config", "siglip_vision_model", "vision tower"),
        ("vision_config", "pixtral", ""),
    ],
)
def test_a_multimodal_model_that_4_reads_otherwise_needs_the_newer_version(part, kind, reason):
    """As tried with 4.57.6: it starts a tower at random whose weights have other names, and only warns."""
    found = newer_only({"model_type": "mistral3", part: {"model_type": kind}})
    assert reason in found
    assert found.startswith("needs transformers 5 or newer" if reason else "")
    assert bool(found) is bool(reason)


def test_gpt_neox_has_its_own_names():
    rope = {"rope_type": "default", "rope_theta": 2e4, "partial_rotary_factor": 0.25}
    assert added(config(rope, model_type="gpt_neox")) == {"rotary_emb_base": 2e4, "rotary_pct": 0.25}


def test_phi_3_gets_the_three_settings_that_it_takes():
    factors = {"short_factor": [1.0], "long_factor": [2.0]}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 32, **factors}
    assert added(config(rope))["rope_scaling"] == {"type": "longrope", **factors}


def test_the_type_of_the_weights_has_its_old_name_too_and_text_models_inside_are_translated():
    inner = config({"rope_type": "default", "rope_theta": 3e4}, dtype="bfloat16")
    found = in_both_spellings({"model_type": "pair", "text_config": inner, "dtype": "bfloat16"})
    assert found["torch_dtype"] == "bfloat16"
    assert (found["text_config"]["rope_theta"], found["text_config"]["torch_dtype"]) == (3e4, "bfloat16")


@pytest.mark.parametrize("given", [{"model_type": "gpt2"}, {"model_type": "mpt", "rope_parameters": None}])
def test_models_without_rotary_positions_stay_as_they_are(given):
    assert added(given) == {}


def test_a_tokenizer_names_a_class_and_tokens_that_both_versions_know(tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    inner = Tokenizer(BPE({"a": 0, "b": 1}, []))
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", additional_special_tokens=["<tool>"])
    made.save_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    save_tokenizer(read, tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["model_input_names"] == ["input_ids", "attention_mask"]
    assert settings["additional_special_tokens"] == ["<tool>"]
    assert not {"is_local", "local_files_only", "backend", "extra_special_tokens"} & settings.keys()
    again = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert (again.eos_token, again("a<tool>b")["input_ids"]) == ("<end>", read("a<tool>b")["input_ids"])
