# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import serving_pb2
from finetree_cli.output import Output
from finetree_cli.render.trainer.artifacts import next_commands, show_next

BASE = artifact_pb2.ArtifactBase(hub_id="org/base")


def adapter(folder, peft_type="LORA", **config: object) -> artifact_pb2.Artifact:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return artifact_pb2.Artifact(kind=artifact_pb2.ARTIFACT_KIND_ADAPTER, peft_type=peft_type, base=BASE)


def test_a_lora_adapter_is_loaded_by_three_programs(tmp_path):
    folder = tmp_path / "my adapter"
    commands = dict(next_commands(adapter(folder, r=16), folder))
    assert list(commands) == ["Python", "vLLM", "llama.cpp"]
    assert commands["Python"].endswith(f"AutoPeftModelForCausalLM.from_pretrained('{folder}')")
    assert commands["vLLM"] == f"vllm serve org/base --enable-lora --lora-modules tuned='{folder}'"
    assert commands["llama.cpp"] == f"python convert_lora_to_gguf.py '{folder}'"
    compile(commands["Python"], "shown", "exec")


@pytest.mark.parametrize(
    ("config", "option"),
    [
        ({"r": 8}, ""),
        ({"r": 17}, " --max-lora-rank 32"),
        ({"r": 8, "rank_pattern": {"q_proj": 64}}, " --max-lora-rank 64"),
    ],
)
def test_vllm_is_told_a_rank_above_its_default(tmp_path, config, option):
    commands = dict(next_commands(adapter(tmp_path, **config), tmp_path))
    assert f"--enable-lora{option} --lora-modules" in commands["vLLM"]


@pytest.mark.parametrize(
    ("peft_type", "config"),
    [("LORA", {"r": 8, "use_dora": True}), ("LORA", {"modules_to_save": ["lm_head"]}), ("PREFIX_TUNING", {})],
)
def test_what_servers_do_not_load_is_loaded_in_python(tmp_path, peft_type, config):
    assert [program for program, _ in next_commands(adapter(tmp_path, peft_type, **config), tmp_path)] == ["Python"]


def test_a_whole_model_and_bottleneck_layers(tmp_path):
    model = artifact_pb2.Artifact(kind=artifact_pb2.ARTIFACT_KIND_MODEL)
    assert dict(next_commands(model, tmp_path))["vLLM"] == f"vllm serve {tmp_path}"
    ((_, bottleneck),) = next_commands(adapter(tmp_path, peft_type=""), tmp_path)
    assert bottleneck.startswith("from finetree_worker.methods import adapter; adapter.load(model, Path(")
    assert list(next_commands(artifact_pb2.Artifact(kind=artifact_pb2.ARTIFACT_KIND_REPORT), tmp_path)) == []


def test_what_does_not_load_says_why(tmp_path, capsys):
    broken = adapter(tmp_path, r=8)
    broken.compat.add(server=serving_pb2.SERVING_TARGET_TRANSFORMERS, reason="lm_head is missing")
    show_next(Output(), broken, tmp_path)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "  transformers does not load it: lm_head is missing\n")
