# SPDX-License-Identifier: Apache-2.0
"""Job files: a spec or a whole request, as YAML or JSON, with positions and local data."""

import json

import pytest
from finetree.json import to_json
from finetree_cli.errors import BadInput
from finetree_cli.jobfile.job import MAX_FILE_BYTES, parse_job, read_job

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


def test_a_whole_request_is_read():
    text = "display_name: try\nspec: {model: {name: m}, full: {}}\nlimits: {duration: 3600s}\nlabels: {team: search}\n"
    request = parse_job(text, "job.yaml").request
    assert request.limits.duration.seconds == 3600
    assert dict(request.labels) == {"team": "search"}
    assert request.spec.WhichOneof("method") == "full"


@pytest.mark.parametrize("numbers_as_text", [True, False])
def test_json_is_read_as_well(numbers_as_text):
    spec = parse_job(RIGHT, "job.yaml").request.spec
    document = to_json(spec)
    if numbers_as_text:
        document["lora"]["rank"] = "8"  # as proto JSON writes int64
    assert parse_job(json.dumps(document, indent="\t"), "job.json").request.spec == spec


def test_a_servers_violations_are_placed():
    file = parse_job(RIGHT, "job.yaml")
    found = file.problems([("job.spec.training.learning_rate", "too high"), ("spec.lora.alpha", "too low")])
    assert [str(item) for item in found] == [
        "job.yaml:8:3: training.learning_rate: too high",
        "job.yaml:5:1: lora.alpha: too low",
    ], "a value that was left out is placed at the setting around it"


def test_files_beside_the_job_file_are_found(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}\n", encoding="utf-8")
    job = tmp_path / "job.yaml"
    job.write_text(RIGHT, encoding="utf-8")
    found = read_job(str(job)).local_data()
    assert [(item.field_path, item.path) for item in found] == [("dataset", tmp_path / "train.jsonl")]
    (tmp_path / "train.jsonl").unlink()
    assert read_job(str(job)).local_data() == [], "a path that is only known to the server stays a path"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"model: {name: \xff}\n", ":1:1: not UTF-8"),
        (b"# " + b"x" * MAX_FILE_BYTES, "larger than"),
        (None, "No such file"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, content, expected):
    path = tmp_path / "job.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=expected):
        read_job(str(path))
