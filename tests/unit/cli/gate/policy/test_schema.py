# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of policy files agrees with their reader, on the documents' own files and on wrong ones."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from finetree_cli.errors import BadInput
from finetree_cli.gate.policy.bounds import KINDS
from finetree_cli.gate.policy.file import read_policies
from finetree_cli.gate.policy.schema import policy_schema
from finetree_cli.jobfile.schema import job_schema
from ruamel.yaml import YAML

DOCS = Path(__file__).parents[5] / "docs"
VALIDATOR = jsonschema.Draft202012Validator(policy_schema(job_schema()))
FENCE = r"^```yaml\n(.*?)^```"
POLICIES = [
    block
    for page in sorted(DOCS.rglob("*.md"))
    for block in re.findall(FENCE, page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    if re.search(r"^(limits:\s*(\[|-)|policies:)", block, flags=re.MULTILINE)  # a job's limits are a mapping
]
JOB = "model: {name: llama-3.1-8b}\nlora: {}\nhardware: {accelerator: a100-80gb}\n"
WRONG = [
    "limits: []",
    "limit: [{metric: fit}]",
    "limits: [{metric: fit}]\nundecided: maybe",
    "limits: [{max: 5 USD}]",
    "limits: [{metric: price}]",
    "limits: [{metric: cost}]",
    "limits: [{metric: cost, max: 5}]",
    "limits: [{metric: cost, max_money: 5 USD}]",
    "limits: [{metric: cost, max: 5 USD, max_increase: 20%}]",
    "limits: [{metric: fit, max: 5}]",
    "limits: [{metric: duration_seconds, max: 8}]",
    "limits: [{metric: device_bytes, max: 24 gigs}]",
    "limits: [{metric: cost, max_increase: 0.2}]",
    "limits: [{metric: model, denied: []}]",
    "limits: [{metric: fit, rule_id: A b}]",
    "limits: [{metric: fit, severity: fatal}]",
    "limits: [{metric: fit}]\nwaivers: [{rule_id: fit, owner: a, reason: b}]",
    "limits: [{metric: fit}]\nexamples: [{job: {model: {name: a}, color: red}, verdict: pass}]",
    "limits: [{metric: fit}]\nexamples: [{verdict: pass}]",
    "limits: [{metric: fit}]\nexamples: [{job: {model: {name: a}}}]",
    "policies: {}",
    "policies: {a: {files: [x]}}",
    "policies: {a: {limits: [{metric: fit}]}}\nlimits: [{metric: fit}]",
    "- a",
]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "job.yaml").write_text(JOB, encoding="utf-8")


def loaded(text: str) -> Any:
    """The document as an editor reads it: YAML 1.2, and nothing but JSON's types."""
    return json.loads(json.dumps(YAML(typ="safe", pure=True).load(text), default=str))


def is_read(text: str) -> bool:
    Path("policy.yaml").write_text(text, encoding="utf-8")
    try:
        read_policies("policy.yaml")
    except BadInput:
        return False
    return True


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(VALIDATOR.schema)


def test_the_documents_have_policies():
    assert len(POLICIES) >= 3


@pytest.mark.parametrize("text", POLICIES)
def test_a_policy_of_the_documents_is_valid_and_is_read(text):
    assert [error.message for error in VALIDATOR.iter_errors(loaded(text))] == []
    assert is_read(text)


@pytest.mark.parametrize("metric", KINDS)
def test_every_metrics_own_example_is_valid_and_is_read(metric):
    kind = KINDS[metric]
    bound = f", {kind.keys[0]}: {kind.example}" if kind.keys else ""
    text = f"limits: [{{metric: {metric}{bound}, level: overridable, rule_id: mine}}]"
    assert VALIDATOR.is_valid(loaded(text))
    assert is_read(text)


@pytest.mark.parametrize("text", WRONG)
def test_a_mistake_is_refused_by_both(text):
    assert not VALIDATOR.is_valid(loaded(text))
    assert not is_read(text)
