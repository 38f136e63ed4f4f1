# SPDX-License-Identifier: Apache-2.0
"""`finetree serving` with the installed recommender in a child process, and against the fake suite."""

import json
from pathlib import Path

import pytest
from finetree.testing import Script, Suite
from finetree_api.trainer.v1 import artifact_pb2, job_pb2
from finetree_cli import __main__ as entry
from finetree_cli.commands.serving import SERVERS, exported, read_adapter, read_gguf
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


def test_what_an_export_has_made_is_judged_by_its_format():
    made = [artifact_pb2.Artifact(base=artifact_pb2.ArtifactBase(family="llama"))]
    for name, form in (("", 4), ("TRANSFORMERS", 4), ("GGUF", 5), ("GGUF_LORA", 6)):
        kind = artifact_pb2.ExportFormat.Value(f"EXPORT_FORMAT_{name or 'UNSPECIFIED'}")
        found = exported("JOB", job_pb2.ExportTask(format=kind), made)
        assert (found.form, found.family) == (form, "llama")
    with pytest.raises(BadInput, match="has exported nothing"):
        exported("JOB", job_pb2.ExportTask(), [])


def test_a_job_that_makes_nothing_to_serve_is_refused(run, monkeypatch):
    with Suite() as suite:
        monkeypatch.setenv("FINETREE_ADDRESS", suite.address)
        with suite.client() as client:
            job = client.prepare(model="acme/small")
        code, _, err = run("serving", job.name)
        assert (code, "makes nothing that is served" in err) == (2, True)


def test_the_answers_name_their_source_and_this_suites_loader_only_where_it_loads(run, tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(DORA, encoding="utf-8")
    code, out, _ = run("serving", file, "--local")
    assert (code, "finetree  " in out) == (0, False)
    assert "source: https://github.com/vllm-project/vllm/blob/" in out.replace("\n    ", "")
    assert "0.33.0 were read)" in " ".join(out.split())
    code, out, _ = run("serving", file, "--local", "--server", "finetree")
    assert "finetree chat and finetree serve answer with" in " ".join(out.split())
    file.write_text(DORA.replace("lora: {rank: 24, weight_decomposed: true}", "adapter: {}"), encoding="utf-8")
    code, out, _ = run("serving", file, "--local")
    assert (code, "finetree_worker.methods.adapter.load" in out) == (0, True)


def test_a_version_that_is_none_is_refused_by_its_option(run, tmp_path):
    code, _, err = run("serving", tmp_path, "--server", "vllm=newest")
    assert (code, "'newest' is no version; write numbers, such as vllm=0.33.0" in err) == (2, True)


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
    for name, head, form in (("whole", b"GGUF general.type", 5), ("part", b"GGUF adapter.type", 6)):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.gguf").write_bytes(head)
        assert read_adapter(tmp_path / name).form == form
    (tmp_path / "none.gguf").write_bytes(b"PK")
    with pytest.raises(BadInput, match="no GGUF file"):
        read_gguf(tmp_path / "none.gguf")


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
