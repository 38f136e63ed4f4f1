# SPDX-License-Identifier: Apache-2.0
"""What to type after a download, by the method that made the artifact."""

import json
import shlex

import pytest
from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import serving_pb2
from finetree_cli.output import Output
from finetree_cli.render.trainer.artifacts import next_commands, show_next

BASE = artifact_pb2.ArtifactBase(hub_id="org/base")
NAME = "projects/default/jobs/0199/artifacts/model"


def adapter(folder, peft_type="LORA", **config: object) -> artifact_pb2.Artifact:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return artifact_pb2.Artifact(kind=artifact_pb2.ARTIFACT_KIND_ADAPTER, peft_type=peft_type, base=BASE)


def commands(artifact, folder) -> dict[str, list[str]]:
    """The words of each command as a shell has them, by its purpose; Python code is compiled."""
    found = {command.purpose: shlex.split(command.line, comments=True) for command in next_commands(artifact, folder)}
    for words in found.values():
        if words[:2] == ["python", "-c"]:
            compile(words[2], "shown", "exec")
    return found


def test_a_lora_adapter_is_loaded_served_and_merged(tmp_path):
    folder = tmp_path / "my adapter"
    found = commands(adapter(folder, r=16), folder)
    assert list(found) == ["load", "serve", "merge"]
    assert f"from_pretrained('{folder}')" in found["load"][2]
    assert found["serve"] == ["vllm", "serve", "org/base", "--enable-lora", "--lora-modules", f"tuned={folder}"]
    assert f"save_pretrained('{folder}-merged')" in found["merge"][2]


@pytest.mark.parametrize("name", ["a'b", 'a"b', "a$b", "a`b", "a\\b"])
def test_a_shell_and_python_take_any_folder_for_what_it_is(tmp_path, name):
    folder = tmp_path / name
    found = commands(adapter(folder, r=16), folder)
    assert repr(str(folder)) in found["load"][2]
    assert found["serve"][-1] == f"tuned={folder}"


@pytest.mark.parametrize(
    ("config", "option"),
    [
        ({"r": 8}, []),
        ({"r": 17}, ["--max-lora-rank", "32"]),
        ({"r": 8, "rank_pattern": {"q_proj": 64}}, ["--max-lora-rank", "64"]),
    ],
)
def test_vllm_is_told_a_rank_above_its_default(tmp_path, config, option):
    assert commands(adapter(tmp_path, **config), tmp_path)["serve"][4:-2] == option


@pytest.mark.parametrize("config", [{"r": 8, "use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_what_vllm_does_not_load_is_served_merged(tmp_path, config):
    found = commands(adapter(tmp_path / "adapter", **config), tmp_path / "adapter")
    assert list(found) == ["load", "merge", "serve"]
    assert found["serve"] == ["vllm", "serve", str(tmp_path / "adapter-merged")]


def test_a_prefix_is_loaded_and_neither_merged_nor_served(tmp_path):
    assert list(commands(adapter(tmp_path, "PREFIX_TUNING"), tmp_path)) == ["load"]


def test_a_whole_model_and_bottleneck_layers(tmp_path):
    model = artifact_pb2.Artifact(name=NAME, kind=artifact_pb2.ARTIFACT_KIND_MODEL)
    found = commands(model, tmp_path)
    assert list(found) == ["load", "serve", "export"]
    assert found["export"] == ["finetree", "export", "0199", "--format", "gguf", "--output", f"{tmp_path}-gguf"]
    bottleneck = commands(adapter(tmp_path, peft_type=""), tmp_path)
    assert "adapter.load(AutoModelForCausalLM.from_pretrained('org/base')" in bottleneck["load"][2]
    assert commands(artifact_pb2.Artifact(kind=artifact_pb2.ARTIFACT_KIND_REPORT), tmp_path) == {}


def test_what_reads_images_too_is_loaded_by_its_own_class_and_not_exported_as_gguf(tmp_path):
    base = artifact_pb2.ArtifactBase(hub_id="org/base", auto_class="AutoModelForImageTextToText")
    lora = adapter(tmp_path, r=8)
    lora.base.CopyFrom(base)
    found = commands(lora, tmp_path)
    assert list(found) == ["load", "serve", "merge"]
    for purpose in ("load", "merge"):
        assert "import AutoModelForImageTextToText as Base" in found[purpose][2]
        assert f"PeftModel.from_pretrained(Base.from_pretrained('org/base'), '{tmp_path}')" in found[purpose][2]
        assert "CausalLM" not in found[purpose][2]
    model = artifact_pb2.Artifact(name=NAME, kind=artifact_pb2.ARTIFACT_KIND_MODEL, base=base)
    found = commands(model, tmp_path)
    assert list(found) == ["load", "serve"]
    assert "import AutoModelForImageTextToText as Model" in found["load"][2]
    bottleneck = adapter(tmp_path, peft_type="")
    bottleneck.base.CopyFrom(base)
    code = commands(bottleneck, tmp_path)["load"][2]
    assert "adapter.load(AutoModelForImageTextToText.from_pretrained('org/base')" in code


def test_the_name_of_a_class_is_no_code(tmp_path):
    model = artifact_pb2.Artifact(kind=artifact_pb2.ARTIFACT_KIND_MODEL)
    model.base.auto_class = "x; import os"
    assert "import os" not in commands(model, tmp_path)["load"][2]


def test_what_a_job_has_trained_can_be_talked_to_and_nobody_is_told_that_it_cannot(tmp_path, capsys):
    made = adapter(tmp_path, r=8)
    made.name = NAME
    made.serving.add(server=serving_pb2.SERVING_TARGET_VLLM, verdict=serving_pb2.SERVING_VERDICT_SERVES)
    made.serving.add(server=serving_pb2.SERVING_TARGET_FINETREE, verdict=serving_pb2.SERVING_VERDICT_NOT)
    show_next(Output(), made, tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].split() == ["chat", "finetree", "chat", "0199"]
    assert lines[-1] == "  served by vllm"


def test_what_does_not_load_says_why(tmp_path, capsys):
    broken = adapter(tmp_path, r=8)
    broken.compat.add(server=serving_pb2.SERVING_TARGET_TRANSFORMERS, reason="lm_head is missing")
    show_next(Output(), broken, tmp_path)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "  transformers does not load it: lm_head is missing\n")


def test_versions_that_are_needed_are_said_beside_the_commands(tmp_path, capsys):
    found = adapter(tmp_path, r=8)
    found.compat.add(server=serving_pb2.SERVING_TARGET_TRANSFORMERS, loads=True, reason="needs transformers 5 or newer")
    show_next(Output(), found, tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "  needs transformers 5 or newer"
    assert lines[1].startswith("  load ")
