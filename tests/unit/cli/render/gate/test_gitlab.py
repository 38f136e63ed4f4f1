# SPDX-License-Identifier: Apache-2.0
"""The report as GitLab's code quality report, against the fields that its documentation lists."""

import json

import gate_reports as sample
import jsonschema
from finetree_cli.render.gate import gitlab

TEXT = {"type": "string", "minLength": 1}
LINES = {"type": "object", "required": ["begin"], "properties": {"begin": {"type": "integer", "minimum": 1}}}
FORMAT = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["description", "check_name", "fingerprint", "location", "severity"],
        "properties": {
            "description": TEXT,
            "check_name": TEXT,
            "fingerprint": TEXT,
            "severity": {"enum": ["info", "minor", "major", "critical", "blocker"]},
            "location": {
                "type": "object",
                "required": ["path", "lines"],
                "properties": {"path": {"type": "string", "pattern": "^(?!\\./|/)."}, "lines": LINES},
            },
        },
    },
}
"""docs.gitlab.com, "Code Quality", "Code Quality report format": GitLab publishes no schema of it."""


def findings_of(report):
    document = json.loads(gitlab.render(report))
    jsonschema.validate(document, FORMAT)
    fingerprints = [finding["fingerprint"] for finding in document]
    assert len(fingerprints) == len(set(fingerprints)), "GitLab shows the first of equal ones alone"
    return document


def test_each_finding_has_severity_and_place():
    found = {each["check_name"]: each for each in findings_of(sample.everything())}
    assert {name: each["severity"] for name, each in found.items()} == {
        "finetree/cost": "critical",
        "finetree/fit": "critical",
        "finetree/duration_seconds": "minor",
        "finetree/energy_kwh": "info",
        "finetree/JOB_FILE_INVALID": "blocker",
    }
    assert found["finetree/JOB_FILE_INVALID"]["location"] == {"path": "training/bad.yaml", "lines": {"begin": 4}}


def test_a_finding_keeps_its_fingerprint_when_its_numbers_change_and_has_no_double():
    one = sample.check("cost", "FAIL", message="$62.00", line=3)
    other = sample.check("cost", "FAIL", message="$63.00", line=9)
    first, second = (findings_of(sample.make(sample.entry("a.yaml", "FAIL", checks=(each,)))) for each in (one, other))
    assert first[0]["fingerprint"] == second[0]["fingerprint"]
    both = sample.entry("a.yaml", "FAIL", checks=(one, other))
    assert [each["description"][:6] for each in findings_of(sample.make(both))] == ["$62.00"]


def test_paths_are_relative_without_a_dot():
    finding = sample.check("cost", "FAIL", file="./jobs/a.yaml")
    (found,) = findings_of(sample.make(sample.entry("./jobs/a.yaml", "FAIL", checks=(finding,))))
    assert found["location"]["path"] == "jobs/a.yaml"
