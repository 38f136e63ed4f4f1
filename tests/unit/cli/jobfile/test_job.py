# SPDX-License-Identifier: Apache-2.0
"""A job file's mistakes are told with file, line, column and proto path; what is right is read as it is meant."""

import json

import pytest
from finetree.json import to_json
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_cli.errors import BadInput
from finetree_cli.jobfile import job as job_file

RIGHT = """\
# A comment.
model: {name: smollm2-135m-instruct}
dataset:
  path: train.jsonl
lora: {rank: 8, targetModules: [q_proj, v_proj]}
training:
  epochs: 2
  learning_rate: 5e-4
  schedule: SCHEDULE_COSINE
evaluation:
  split_fraction: 0.1
  metrics: [METRIC_LOSS, METRIC_EXACT_MATCH]
"""


def problems(text: str) -> list[str]:
    with pytest.raises(BadInput) as caught:
        job_file.parse(text, "job.yaml")
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


def test_a_spec_is_read_with_the_types_of_its_fields():
    spec = job_file.parse(RIGHT, "job.yaml").request.spec
    assert spec.training.learning_rate == 5e-4, "YAML 1.1 alone would read text here"
    assert list(spec.lora.target_modules) == ["q_proj", "v_proj"], "lowerCamelCase is proto JSON too"
    assert list(spec.evaluation.metrics) == [rs.METRIC_LOSS, rs.METRIC_EXACT_MATCH]
    assert not spec.training.HasField("seed")


@pytest.mark.parametrize("written", ["SCHEDULE_COSINE", "COSINE", "cosine", "Schedule_Cosine"])
def test_a_name_may_leave_out_what_all_names_of_its_enum_begin_with(written):
    text = (
        f"gradient_checkpointing: off\ntraining: {{schedule: {written}, packing: on}}\nqlora: {{quantization: nf4}}\n"
    )
    spec = job_file.parse(text, "job.yaml").request.spec

    assert spec.training.schedule == rs.SCHEDULE_COSINE
    assert spec.gradient_checkpointing == rs.GRADIENT_CHECKPOINTING_OFF
    assert spec.training.packing == rs.PACKING_ON
    assert spec.qlora.quantization == rs.QUANTIZATION_NF4


def test_a_whole_request_is_read():
    text = "display_name: try\nspec: {model: {name: m}, full: {}}\nlimits: {duration: 3600s}\nlabels: {team: search}\n"
    request = job_file.parse(text, "job.yaml").request
    assert request.limits.duration.seconds == 3600
    assert dict(request.labels) == {"team": "search"}
    assert request.spec.WhichOneof("method") == "full"


@pytest.mark.parametrize("numbers_as_text", [True, False])
def test_json_is_read_as_well(numbers_as_text):
    spec = job_file.parse(RIGHT, "job.yaml").request.spec
    document = to_json(spec)
    if numbers_as_text:
        document["lora"]["rank"] = "8"  # as proto JSON writes int64
    assert job_file.parse(json.dumps(document, indent="\t"), "job.json").request.spec == spec


WRONG = {
    "unknown key, near miss": (
        "model: {name: m}\ntraining:\n  learning_rat: 1\n",
        "job.yaml:3:3: training.learning_rat: there is no such setting; did you mean learning_rate?",
    ),
    "key in the wrong place": (
        "model: {name: m}\nlearning_rate: 1\n",
        "job.yaml:2:1: learning_rate: there is no such setting here; it belongs at training.learning_rate",
    ),
    "enum in words": (
        "training:\n  schedule: cosin\n",
        "job.yaml:2:13: training.schedule: unknown value 'cosin'; did you mean cosine?",
    ),
    "enum misspelt": (
        "precision: PRECISION_BF61\n",
        "job.yaml:1:12: precision: unknown value 'PRECISION_BF61'; did you mean bf16?",
    ),
    "text for a number": (
        "lora: {rank: eight}\n",
        "job.yaml:1:14: lora.rank: expected a whole number, got 'eight'",
    ),
    "fraction for a whole number": (
        "lora:\n  rank: 8.5\n",
        "job.yaml:2:9: lora.rank: expected a whole number, got '8.5'",
    ),
    "not a number": (
        "lora: {alpha: .nan}\n",
        "job.yaml:1:15: lora.alpha: expected a finite number, got '.nan'",
    ),
    "infinite": (
        "lora: {alpha: inf}\n",
        "job.yaml:1:15: lora.alpha: expected a finite number, got 'inf'",
    ),
    "beyond int64": (
        "lora: {rank: 99999999999999999999}\n",
        "job.yaml:1:14: lora.rank: '99999999999999999999' is out of range for this setting",
    ),
    "yes for true": (
        "lora: {rank_stabilized: yes}\n",
        "job.yaml:1:25: lora.rank_stabilized: expected true or false, got 'yes'",
    ),
    "number for text": (
        "model: {name: 135}\n",
        "job.yaml:1:15: model.name: expected text, got '135'; put it in quotes if it is meant as text",
    ),
    "key twice": (
        "model: {name: m}\nprecision: PRECISION_FP32\nprecision: PRECISION_BF16\n",
        "job.yaml:3:1: precision: is given twice, first in line 2; keep one of them",
    ),
    "two methods": (
        "full: {}\nmodel: {name: m}\nlora: {}\n",
        "job.yaml:3:1: lora: line 1 has made this choice already; keep one of full, lora, qlora, prefix, adapter",
    ),
    "no value": (
        "model: {name: m}\nlora:\n",
        "job.yaml:2:6: lora: has no value; write {} to take the defaults",
    ),
    "scalar for settings": (
        "training: fast\n",
        "job.yaml:1:11: training: expected settings (key: value), got 'fast'",
    ),
    "scalar for a list": (
        "evaluation: {metrics: METRIC_LOSS}\n",
        "job.yaml:1:23: evaluation.metrics: expected a list, got 'METRIC_LOSS'; write [a, b]",
    ),
    "wrong item": (
        "evaluation:\n  metrics:\n    - METRIC_LOSS\n    - METRIC_F1\n",
        (
            "job.yaml:4:7: evaluation.metrics[1]: unknown value 'METRIC_F1'; use one of loss, exact_match, "
            "token_accuracy"
        ),
    ),
    "wrong duration": (
        "spec: {model: {name: m}}\nlimits:\n  duration: soon\n",
        "job.yaml:3:13: limits.duration: expected a duration such as 3600s, got 'soon'",
    ),
    "unknown key inside a request": (
        "spec:\n  model: {name: m}\n  lora: {rnk: 8}\n",
        "job.yaml:3:10: spec.lora.rnk: there is no such setting; did you mean rank?",
    ),
    "label twice": (
        "spec: {model: {name: m}}\nlabels:\n  a: b\n  a: c\n",
        "job.yaml:4:3: labels.a: is given twice, first in line 3; keep one of them",
    ),
    "empty": ("# nothing\n", "job.yaml:1:1: empty; a job names at least its model"),
    "a list": ("- model\n", "job.yaml:1:1: expected settings (key: value), got a list"),
    "not YAML": ("model: {name: m\nlora: 1\n", "job.yaml:2:5: not YAML: expected ',' or '}', but got ':'"),
    "two documents": ("model: {name: m}\n---\na: b\n", "job.yaml:2:1: not YAML: but found another document"),
}


@pytest.mark.parametrize(("text", "expected"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_told_with_its_place(text, expected):
    assert problems(text) == [expected]


def test_every_mistake_is_told_at_once():
    found = problems("model: {nam: m}\nlora: {rank: x}\ntraining:\n  epoch: 3\n")
    assert [line.split(": ")[0] for line in found] == ["job.yaml:1:9", "job.yaml:2:14", "job.yaml:4:3"]


def test_a_servers_violations_are_placed():
    file = job_file.parse(RIGHT, "job.yaml")
    found = file.problems([("job.spec.training.learning_rate", "too high"), ("spec.lora.alpha", "too low")])
    assert [str(item) for item in found] == [
        "job.yaml:8:3: training.learning_rate: too high",
        "job.yaml:5:1: lora.alpha: too low",
    ], "a value that was left out is placed at the setting around it"


def test_files_beside_the_job_file_are_found(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}\n", encoding="utf-8")
    job = tmp_path / "job.yaml"
    job.write_text(RIGHT, encoding="utf-8")
    found = job_file.read(str(job)).local_data()
    assert [(item.field_path, item.path) for item in found] == [("dataset", tmp_path / "train.jsonl")]
    (tmp_path / "train.jsonl").unlink()
    assert job_file.read(str(job)).local_data() == [], "a path that is only known to the server stays a path"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"model: {name: \xff}\n", ":1:1: not UTF-8"),
        (b"# " + b"x" * job_file.MAX_FILE_BYTES, "larger than"),
        (None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, content, expected):
    path = tmp_path / "job.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=expected):
        job_file.read(str(path))
