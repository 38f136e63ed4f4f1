# SPDX-License-Identifier: Apache-2.0
"""The report as SARIF: valid, and what GitHub's code scanning asks for beyond the schema."""

import json
from pathlib import Path

import gate_reports as sample
import jsonschema
import pytest
from finetree_cli.render.gate import sarif

SCHEMA = jsonschema.Draft4Validator(
    json.loads((Path(__file__).parent / "schemas/sarif-2.1.0-rtm.5.json").read_text(encoding="utf-8"))
)


def run_of(report):
    document = json.loads(sarif.render(report))
    SCHEMA.validate(document)
    assert document["version"] == "2.1.0"
    (run,) = document["runs"]
    return run


def test_each_finding_is_a_result_with_level_place_and_fingerprint():
    run = run_of(sample.everything())
    found = {result["ruleId"]: result for result in run["results"]}
    levels = {rule: result["level"] for rule, result in found.items()}
    assert levels == {
        "cost": "error",
        "fit": "error",
        "duration_seconds": "warning",
        "energy_kwh": "note",
        "job-file": "error",
    }
    place = found["cost"]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "training/fail.yaml", "uriBaseId": "%SRCROOT%"}
    assert place["region"] == {"startLine": 3, "startColumn": 1}
    assert found["cost"]["partialFingerprints"] == {"finetree/v1": sample.FAILING.checks[0].fingerprint}
    (suppression,) = found["energy_kwh"]["suppressions"]
    assert suppression["justification"] == "waived by ada until 2026-12-31: agreed until the sale"


def test_rules_are_listed_once_and_pointed_at():
    run = run_of(sample.make(sample.FAILING, sample.FAILING, sample.unreadable()))
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(rules) == len(set(rules))
    assert all(rules[result["ruleIndex"]] == result["ruleId"] for result in run["results"])
    assert all(result["locations"] and result["message"]["text"] for result in run["results"])


@pytest.mark.parametrize(
    ("file", "uri"),
    [
        ("./jobs/a.yaml", "jobs/a.yaml"),
        ("jobs/with space/ä#?%.yaml", "jobs/with%20space/%C3%A4%23%3F%25.yaml"),
        ("a:b.yaml", "a%3Ab.yaml"),
    ],
)
def test_a_file_is_a_relative_uri(file, uri):
    finding = sample.check("cost", "FAIL", file=file)
    run = run_of(sample.make(sample.entry(file, "FAIL", checks=(finding,))))
    assert run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == uri


def test_where_every_limit_passes_there_is_a_run_without_results():
    assert run_of(sample.make(sample.entry(checks=(sample.check(),))))["results"] == []
