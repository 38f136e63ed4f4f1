# SPDX-License-Identifier: Apache-2.0
"""The report as JUnit XML, valid for Jenkins and counted as its readers count."""

from pathlib import Path
from xml.etree import ElementTree as ET

import gate_reports as sample
import pytest
import xmlschema
from finetree_cli.render.gate import junit

SCHEMA = xmlschema.XMLSchema(Path(__file__).parent / "schemas/junit-10.xsd")


def test_a_report_is_valid_and_each_verdict_has_its_outcome():
    text = junit.render(sample.everything())
    SCHEMA.validate(text)
    root = ET.fromstring(text)
    outcomes = {
        (suite.get("name"), case.get("name")): [each.tag for each in case]
        for suite in root
        for case in suite.iter("testcase")
    }
    assert outcomes == {
        ("training/fail.yaml", "cost"): ["failure"],
        ("training/fail.yaml", "fit"): ["failure"],
        ("training/fail.yaml", "duration_seconds"): ["system-out"],
        ("training/fail.yaml", "energy_kwh"): ["skipped"],
        ("training/fail.yaml", "model"): ["system-out"],
        **{(f"training/{name}.yaml", "cost"): ["system-out"] for name in ("a", "new", "ran")},
        ("training/bad.yaml", "job file"): ["error"],
    }
    assert dict(root.attrib) == {"name": "finetree", "tests": "9", "failures": "2", "errors": "1"}
    suite = root[0]
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["5", "2", "0", "1"]


def test_an_undecided_limit_that_the_policy_lets_through_is_skipped_and_not_failed():
    lenient = sample.entry(verdict="UNDECIDED", passed=True, checks=(sample.check("fit", "UNDECIDED"),))
    root = ET.fromstring(junit.render(sample.make(lenient)))
    assert [each.tag for each in root.iter("testcase").__next__()] == ["skipped"]


@pytest.mark.parametrize("text", ["\x00\x1b\ufffe", "]]> & < > \" '", "two\nlines"])
def test_any_text_is_legal(text):
    failing = sample.entry(text, "FAIL", checks=(sample.check(text, "FAIL", file=text, message=text),))
    made = junit.render(sample.make(failing, sample.unreadable(text, text)))
    SCHEMA.validate(made)
    message = ET.fromstring(made).find(".//failure").get("message")
    assert message.startswith(text if text.isprintable() else text[:3].translate(dict.fromkeys((0, 27), "\ufffd"))[:2])


def test_an_empty_report_is_valid():
    SCHEMA.validate(junit.render(sample.make()))
