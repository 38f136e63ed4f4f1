# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of job files: it takes what the reader takes, and refuses what editors can know to be wrong."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import run_spec_pb2
from finetree_cli.errors import BadInput
from finetree_cli.jobfile.job import parse_job
from finetree_cli.jobfile.schema import job_schema
from finetree_cli.jobfile.yaml_writer import to_yaml
from google.protobuf import json_format
from ruamel.yaml import YAML

SCHEMA = job_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
HEAD = "model: {name: smollm2-135m}\n"
GOOD = {
    "a run": HEAD + "lora: {rank: 16, target_modules: [q_proj]}\nhardware: {accelerator: rtx-4090, count: 2}\n",
    "short and full names": HEAD + "full: {}\nprecision: bf16\noptimizer: OPTIMIZER_ADAMW\n",
    "the words of --sharding": HEAD + "lora: {}\nhardware: {accelerator: h100, count: 8, sharding: zero-3}\n",
    "a number that YAML 1.1 reads as text": HEAD + "lora: {}\ntraining: {learning_rate: 5e-4, epochs: 3}\n",
    "money": HEAD + "lora: {}\nownership: {owned: {price_per_kwh: 0.30 EUR, watts: 450}}\n",
    "a profile": HEAD + "lora: {}\ndataset: {profile: {examples: 5000, total_tokens: 2000000}}\n",
    "a job around it": "display_name: x\nlabels: {team: ml}\nlimits: {max_duration: 1h30m}\n"
    "train: {spec: {model: {hub: {id: a/b}}, qlora: {}}}\n",
}
WRONG = {
    "no model": "lora: {}\n",
    "unknown key": HEAD + "color: red\n",
    "unknown key inside": HEAD + "lora: {rnk: 8}\n",
    "two methods": HEAD + "lora: {}\nfull: {}\n",
    "two sources": "model: {name: a, hub: {id: a/b}}\nlora: {}\n",
    "no source": "model: {}\nlora: {}\n",
    "unknown name": HEAD + "precision: bf15\n",
    "too large": HEAD + "lora: {rank: 100000}\n",
    "a list for a text": "model: {name: [a]}\n",
    "a duration without a unit": "train: {spec: {model: {name: a}}}\nlimits: {max_duration: 8}\n",
    "money without a currency": HEAD + "ownership: {owned: {price_per_kwh: 0.3}}\n",
    "settings of another level": "display_name: x\nmodel: {name: a}\n",
    "a list": "- a\n",
}


def loaded(text: str) -> Any:
    """The document as an editor reads it: YAML 1.2, and nothing but JSON's types."""
    return json.loads(json.dumps(YAML(typ="safe", pure=True).load(text), default=str))


def test_the_schema_is_one_and_small_enough_for_editors():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert len(json.dumps(SCHEMA)) < 200_000


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD.keys())
def test_a_job_file_is_valid(text):
    parse_job(text, "job.yaml")
    assert [error.message for error in VALIDATOR.iter_errors(loaded(text))] == []


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_refused(text):
    assert not VALIDATOR.is_valid(loaded(text))


def filled(message: Any, depth: int = 0) -> Any:
    """Set every field of a message, the first of each oneof, to a value that its rules allow."""
    seen = set()
    for field in message.DESCRIPTOR.fields:
        group = field.containing_oneof
        known_form = field.message_type is not None and field.message_type.full_name.startswith("google.protobuf.")
        if known_form or (group is not None and len(group.fields) > 1 and group.name in seen):
            continue
        seen.add(group.name if group is not None else "")
        if field.is_repeated:
            continue
        if field.message_type is not None:
            getattr(message, field.name).SetInParent()
            if field.message_type.full_name == "google.type.Money":
                json_format.ParseDict({"units": 5, "currency_code": "EUR"}, getattr(message, field.name))
            elif depth < 6:
                filled(getattr(message, field.name), depth + 1)
        elif field.enum_type is not None:
            setattr(message, field.name, field.enum_type.values[-1].number)
        elif field.type == field.TYPE_STRING:
            setattr(message, field.name, "sha256:" + "0" * 64 if "sha256" in field.name else "a/b")
        else:
            setattr(message, field.name, field.type == field.TYPE_BOOL or 1)
    return message


def test_every_setting_of_a_run_is_in_the_schema():
    spec = filled(run_spec_pb2.RunSpec())
    text = to_yaml(spec)
    try:
        assert parse_job(text, "job.yaml").spec == spec
    except BadInput as error:
        pytest.fail(str(error.problems))
    unknown = [e.message for e in VALIDATOR.iter_errors(loaded(text)) if "dditional properties" in e.message]
    assert len(text.splitlines()) > 60
    assert unknown == []


def test_settings_have_the_contracts_comments():
    spec = SCHEMA["$defs"]["RunSpec"]
    assert set(spec["properties"]) == {field.name for field in run_spec_pb2.RunSpec.DESCRIPTOR.fields}
    bare = [name for name, value in spec["properties"].items() if len(value.get("description", "")) < 10]
    assert bare == []
    assert set(SCHEMA["$defs"]["JobTemplate"]["properties"]) == {f.name for f in job_pb2.JobTemplate.DESCRIPTOR.fields}


def test_job_files_of_the_documents_are_valid():
    page = (Path(__file__).parents[4] / "docs" / "training-files.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(dataset:.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    whole = [block for block in blocks if re.search(r"^  (path|name|profile):", block, flags=re.MULTILINE)]
    assert whole
    for block in whole:
        assert [error.message for error in VALIDATOR.iter_errors(loaded(f"{HEAD}lora: {{}}\n{block}"))] == []
