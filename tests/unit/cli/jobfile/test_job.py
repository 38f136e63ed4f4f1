# SPDX-License-Identifier: Apache-2.0
"""Job files: a spec or a whole request, as YAML or JSON, with positions and local data."""

import json

import pytest
from finetree.json import to_json
from finetree_cli.errors import BadInput, Position
from finetree_cli.jobfile.job import MAX_FILE_BYTES, nearest, parse_job, read_job

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


def test_a_whole_job_is_read():
    text = (
        "display_name: try\ntrain: {spec: {model: {name: m}, full: {}}}\n"
        "limits: {max_duration: 3600s, max_cost: 5 EUR}\nlabels: {team: search}\n"
    )
    job = parse_job(text, "job.yaml")
    assert job.template.limits.max_duration.seconds == 3600
    assert (job.template.limits.max_cost.units, job.template.limits.max_cost.currency_code) == (5, "EUR")
    assert dict(job.template.labels) == {"team": "search"}
    assert job.spec.WhichOneof("method") == "full"


def test_a_job_that_does_not_train_has_no_spec():
    job = parse_job("prepare: {model: {name: m}}\n", "job.yaml")
    assert job.template.prepare.model.name == "m"
    assert job.local_data() == []
    with pytest.raises(BadInput, match=r"job\.yaml"):
        _ = job.spec


@pytest.mark.parametrize("numbers_as_text", [True, False])
def test_json_is_read_as_well(numbers_as_text):
    spec = parse_job(RIGHT, "job.yaml").spec
    document = to_json(spec)
    if numbers_as_text:
        document["lora"]["rank"] = "8"
    assert parse_job(json.dumps(document, indent="\t"), "job.json").spec == spec


def test_a_servers_violations_are_placed():
    file = parse_job(RIGHT, "job.yaml")
    found = file.problems([("job.train.spec.training.learning_rate", "too high"), ("run.spec.lora.alpha", "too low")])
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


def test_a_model_that_is_a_name_alone_is_refused_with_how_it_is_written():
    with pytest.raises(BadInput) as refused:
        parse_job("model: m\nlora: {}\n", "job.yaml")
    (problem,) = refused.value.problems
    assert problem.message.endswith("got 'm'; `model: {name: m}` names a base model")


def test_problems_of_a_whole_job_have_whole_paths():
    file = parse_job("train:\n  spec: {model: {name: m}, lora: {rank: 8}}\n", "job.yaml")
    (problem,) = file.problems([("job.train.spec.lora.rank", "too high")])
    assert (problem.position.line, problem.field_path) == (2, "train.spec.lora.rank")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("a[1].b", 3),
        ("a[1].b.c", 3),
        ("a[1].x", 2),
        ("a[0]", 1),
        ("a", 1),
        ("a.x[2].y", 1),
        ("b", None),
        ("", None),
        ('a["x]y"]', 1),
    ],
)
def test_the_nearest_value_around_a_path_is_found(path, line):
    positions = {"a": 1, "a[1]": 2, "a[1].b": 3}
    found = nearest({key: Position("f", number, 1) for key, number in positions.items()}, path)
    assert (found.line if found is not None else None) == line


@pytest.mark.parametrize("rest", ["", "lora: {target_modules: *j}\n", "labels: *j\n"])
def test_a_bomb_of_aliases_is_refused_before_it_is_read(rest):
    laughs = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    laughs += "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9))
    with pytest.raises(BadInput) as caught:
        parse_job(laughs + rest, "job.yaml")
    (problem,) = caught.value.problems
    assert problem.message == "its aliases stand for more than 100000 values; write them out"


def test_an_alias_of_itself_is_refused_and_a_plain_one_is_read():
    with pytest.raises(BadInput, match=r"1 problem in job\.yaml"):
        parse_job("labels: &a {b: *a}\n", "job.yaml")
    job = parse_job("display_name: &n try\ntrain: {spec: {model: {name: *n}, full: {}}}\n", "job.yaml")
    assert job.template.train.spec.model.name == "try"


@pytest.mark.parametrize("content", [b'{"prompt": "a"}\n' * 2, b'{"prompt": "a"}\n', b"caf\xe9\n", b""])
def test_training_rows_in_place_of_a_job_file_are_called_so(tmp_path, content):
    for name, told in (("train.jsonl", True), ("train.csv", True), ("job.yaml", False)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput) as caught:
            read_job(str(tmp_path / name))
        assert ("these are training rows" in caught.value.remedy) is told
