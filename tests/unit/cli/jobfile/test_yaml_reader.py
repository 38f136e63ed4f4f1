# SPDX-License-Identifier: Apache-2.0
"""Values of a job file by the types of their fields, and mistakes with their positions."""

import pytest
from finetree_api.types.v1 import hardware_pb2, method_pb2, training_pb2
from finetree_cli.errors import BadInput, FileProblem
from finetree_cli.jobfile.job import parse_job

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


def problems(text: str) -> tuple[FileProblem, ...]:
    with pytest.raises(BadInput) as caught:
        parse_job(text, "job.yaml")
    assert caught.value.exit_code == 2
    return caught.value.problems


def test_a_spec_is_read_with_the_types_of_its_fields():
    spec = parse_job(RIGHT, "job.yaml").spec
    assert spec.training.learning_rate == 5e-4, "YAML 1.1 alone would read text here"
    assert list(spec.lora.target_modules) == ["q_proj", "v_proj"], "lowerCamelCase is proto JSON too"
    assert list(spec.evaluation.metrics) == [training_pb2.METRIC_LOSS, training_pb2.METRIC_EXACT_MATCH]
    assert not spec.training.HasField("seed")


@pytest.mark.parametrize("written", ["SCHEDULE_COSINE", "COSINE", "cosine", "Schedule_Cosine"])
def test_a_name_may_leave_out_what_all_names_of_its_enum_begin_with(written):
    text = (
        f"gradient_checkpointing: off\ntraining: {{schedule: {written}, packing: on}}\nqlora: {{quantization: nf4}}\n"
    )
    spec = parse_job(text, "job.yaml").spec

    assert spec.training.schedule == training_pb2.SCHEDULE_COSINE
    assert spec.gradient_checkpointing == training_pb2.GRADIENT_CHECKPOINTING_OFF
    assert spec.training.packing == training_pb2.PACKING_ON
    assert spec.qlora.quantization == method_pb2.QUANTIZATION_NF4


@pytest.mark.parametrize(
    ("word", "name"), [("fsdp", "FULL"), ("zero-3", "FULL"), ("ZeRO-2", "GRADIENTS"), ("ddp", "REPLICATED")]
)
def test_sharding_has_the_words_of_its_option(word, name):
    spec = parse_job(f"hardware: {{accelerator: h100, count: 8, sharding: {word}}}\n", "job.yaml").spec
    assert hardware_pb2.Sharding.Name(spec.hardware.sharding) == f"SHARDING_{name}"


WRONG = {
    "unknown key, near miss": (
        "model: {name: m}\ntraining:\n  learning_rat: 1\n",
        (3, 3, "training.learning_rat"),
        "did you mean learning_rate?",
    ),
    "key in the wrong place": (
        "model: {name: m}\nlearning_rate: 1\n",
        (2, 1, "learning_rate"),
        "training.learning_rate",
    ),
    "enum in words": ("training:\n  schedule: cosin\n", (2, 13, "training.schedule"), "'cosin'; did you mean cosine?"),
    "enum misspelt": ("precision: PRECISION_BF61\n", (1, 12, "precision"), "'PRECISION_BF61'; did you mean bf16?"),
    "text for a number": ("lora: {rank: eight}\n", (1, 14, "lora.rank"), "'eight'"),
    "fraction for a whole number": ("lora:\n  rank: 8.5\n", (2, 9, "lora.rank"), "'8.5'"),
    "not a number": ("lora: {alpha: .nan}\n", (1, 15, "lora.alpha"), "'.nan'"),
    "infinite": ("lora: {alpha: inf}\n", (1, 15, "lora.alpha"), "'inf'"),
    "beyond int32": ("lora: {rank: 99999999999}\n", (1, 14, "lora.rank"), "out of range"),
    "yes for true": ("lora: {rank_stabilized: yes}\n", (1, 25, "lora.rank_stabilized"), "true or false"),
    "number for text": ("model: {name: 135}\n", (1, 15, "model.name"), "quotes"),
    "key twice": (
        "model: {name: m}\nprecision: PRECISION_FP32\nprecision: PRECISION_BF16\n",
        (3, 1, "precision"),
        "line 2",
    ),
    "two methods": (
        "full: {}\nmodel: {name: m}\nlora: {}\n",
        (3, 1, "lora"),
        "line 1; keep one of full, lora, qlora, prefix, adapter",
    ),
    "no value": ("model: {name: m}\nlora:\n", (2, 6, "lora"), "write {}"),
    "scalar for settings": ("training: fast\n", (1, 11, "training"), "'fast'"),
    "scalar for a list": ("evaluation: {metrics: METRIC_LOSS}\n", (1, 23, "evaluation.metrics"), "write [a, b]"),
    "wrong item": (
        "evaluation:\n  metrics:\n    - METRIC_LOSS\n    - METRIC_F1\n",
        (4, 7, "evaluation.metrics[1]"),
        "'METRIC_F1'; use one of loss, exact-match, token-accuracy",
    ),
    "wrong duration": (
        "train: {spec: {model: {name: m}}}\nlimits:\n  max_duration: soon\n",
        (3, 17, "limits.max_duration"),
        "such as 30m, 8h",
    ),
    "duration without a unit": (
        "train: {spec: {model: {name: m}}}\nlimits:\n  max_duration: 8\n",
        (3, 17, "limits.max_duration"),
        "write 8h for hours",
    ),
    "unknown key inside a request": (
        "train:\n spec:\n  model: {name: m}\n  lora: {rnk: 8}\n",
        (4, 10, "train.spec.lora.rnk"),
        "did you mean rank?",
    ),
    "money without a currency": (
        "ownership: {owned: {price_per_kwh: 0.3}}\n",
        (1, 36, "ownership.owned.price_per_kwh"),
        "0.30 EUR",
    ),
    "setting of another level": ("train: {model: {name: m}}\n", (1, 9, "train.model"), "train.spec.model"),
    "spec without its task": ("spec: {model: {name: m}}\n", (1, 1, "spec"), "train.spec"),
    "label twice": ("train: {spec: {model: {name: m}}}\nlabels:\n  a: b\n  a: c\n", (4, 3, "labels.a"), "line 3"),
    "empty": ("# nothing\n", (1, 1, ""), "is empty"),
    "a list": ("- model\n", (1, 1, ""), "a list"),
    "not YAML": ("model: {name: m\nlora: 1\n", (2, 5, ""), "not YAML"),
    "two documents": ("model: {name: m}\n---\na: b\n", (2, 1, ""), "not YAML"),
}


@pytest.mark.parametrize(("text", "where", "fact"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_has_its_position_its_path_and_its_fact(text, where, fact):
    (problem,) = problems(text)
    position = problem.position
    assert position.file == "job.yaml"
    assert (position.line, position.column, problem.field_path) == where
    assert fact in problem.message


def test_every_mistake_is_reported_at_once():
    found = problems("model: {nam: m}\nlora: {rank: x}\ntraining:\n  epoch: 3\n")
    assert [str(problem.position) for problem in found] == ["job.yaml:1:9", "job.yaml:2:14", "job.yaml:4:3"]
