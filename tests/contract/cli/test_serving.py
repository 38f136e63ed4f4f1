# SPDX-License-Identifier: Apache-2.0
"""`finetree serving` with the installed recommender in a child process, and against the fake suite."""

import json
from pathlib import Path

import pytest
from finetree.testing import Script, Suite
from finetree_cli import __main__ as entry
from finetree_cli.commands.serving import SERVERS, read_adapter
from finetree_cli.errors import BadInput
from finetree_cli.render.recommender.serving import NAMES

SHAPE = "{hidden_size: 64, layers: 1, intermediate_size: 64, attention_heads: 1, vocab_size: 64, family: llama}"
DORA = f"model: {{shape: {SHAPE}}}\nlora: {{rank: 24, weight_decomposed: true}}\n"


@pytest.fixture
def run(capsys):
    def command(*words: str | Path) -> tuple[int, str, str]:
        code = entry.run([str(word) for word in words])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return command


def test_the_servers_are_those_of_the_contract():
    assert set(SERVERS) == set(NAMES.values())


def test_a_job_file_is_judged_before_it_is_trained(run, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(DORA, encoding="utf-8")
    code, out, err = run("serving", file, "--local", "--server", "vllm=0.33.0", "--require", "sglang", "--json")
    document = json.loads(out)
    checks = document["checks"]
    assert [check["server"] for check in checks] == ["SERVING_TARGET_VLLM", *["SERVING_TARGET_SGLANG"] * 2]
    assert {check["verdict"] for check in checks} == {"SERVING_VERDICT_NOT"}
    assert checks[0]["versions"] == "0.33.0"
    assert "peft_helper.py" in checks[0]["source_url"]
    assert (code, document["not_served_by"]) == (3, ["sglang"])
    assert "not served by sglang" in err


def test_a_job_of_the_trainer_is_judged_by_its_spec(run, monkeypatch):
    with Suite() as suite:
        monkeypatch.setenv("FINETREE_ADDRESS", suite.address)
        suite.trainer.script = Script(steps=2)
        suite.base_models.add("acme/small")
        with suite.client() as client:
            rows = suite.datasets.add([{"prompt": "a", "completion": "b"}])
            spec = {"model": {"name": "small"}, "lora": {"rank": 8}, "training": {"epochs": 1}}
            job = client.create_job({**spec, "dataset": {"name": rows.name}})
            job.wait()
        code, out, err = run("serving", job.name)
        assert (code, "yes" in out) == (0, True)
        assert "rules of" in err
        code, _, err = run("serving", "no-such-job")
        assert (code, "JOB_NOT_FOUND" in err) == (2, True)


def write(folder: Path, name: str, document: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(document), encoding="utf-8")
    return folder


def test_a_folder_is_read_for_what_it_is(tmp_path):
    config = {"peft_type": "LORA", "r": 8, "rank_pattern": {"q_proj": 32}, "lora_alpha": 16, "use_rslora": True}
    config |= {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "bias": "lora_only"}
    found = read_adapter(write(tmp_path / "lora", "adapter_config.json", config))
    assert (found.rank, found.alpha, found.use_rslora, found.trains_bias) == (32, 16.0, True, True)
    assert (list(found.target_modules), list(found.modules_to_save)) == (["q_proj"], ["lm_head"])
    prefix = read_adapter(write(tmp_path / "prefix", "adapter_config.json", {"peft_type": "PREFIX_TUNING"}))
    own = read_adapter(write(tmp_path / "own", "adapter_config.json", {"format": "finetree-bottleneck-1"}))
    model = read_adapter(write(tmp_path / "model", "config.json", {"model_type": "llama"}))
    assert (prefix.form, own.form, model.form, model.family) == (2, 3, 4, "llama")


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (None, "no adapter_config.json"),
        ([], "no configuration"),
        ({"peft_type": "LORA", "r": "many"}, "not of its kind"),
    ],
)
def test_a_folder_that_says_nothing_usable_is_refused(tmp_path, document, text):
    if document is not None:
        write(tmp_path, "adapter_config.json", document)
    with pytest.raises(BadInput, match=text):
        read_adapter(tmp_path)
