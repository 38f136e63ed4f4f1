# SPDX-License-Identifier: Apache-2.0
"""The report as JUnit XML: a suite for each job file, a case for each limit.

The elements and attributes are those of the schema of Jenkins' xUnit plugin (junit-10.xsd), which is stricter than what
most readers take: no file or line on a case, and no count of skipped cases on `testsuites`.
"""

import re
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from finetree_cli.gate.report import CheckResult, PlanEntry, Report
from finetree_cli.render.gate import wording

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, not even as references."""


def render(report: Report) -> str:
    """Format the report."""
    root = Element("testsuites", name="finetree")
    for entry in report.plans:
        if entry.change != "removed":
            _suite(root, entry)
    for count in ("tests", "failures", "errors"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in root)))
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def _suite(root: Element, entry: PlanEntry) -> None:
    suite = SubElement(root, "testsuite", name=_legal(entry.file))
    if entry.plan_digest is not None:
        properties = SubElement(suite, "properties")
        SubElement(properties, "property", name="plan_digest", value=entry.plan_digest)
    if entry.error is not None:
        case = _case(suite, entry, "job file")
        lines = [f"{each.location.file}:{each.location.line}: {wording.problem(each)}" for each in entry.error.problems]
        lines += [entry.error.remedy] if entry.error.remedy else []
        _outcome(case, "error", entry.error.reason, entry.error.message, "\n".join(lines))
    for check in entry.checks:
        _check(_case(suite, entry, check.rule_id), entry, check)
    for attribute, tag in (("tests", "testcase"), ("failures", "testcase/failure"), ("errors", "testcase/error")):
        suite.set(attribute, str(len(suite.findall(tag))))
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))


def _case(suite: Element, entry: PlanEntry, name: str) -> Element:
    return SubElement(suite, "testcase", name=_legal(name), classname=_legal(entry.file))


def _check(case: Element, entry: PlanEntry, check: CheckResult) -> None:
    place = f"{check.location.file}:{check.location.line}"
    text = wording.explained(check)
    if wording.fails(entry, check):
        _outcome(case, "failure", check.verdict, text, place)
    elif check.verdict in ("WAIVED", "UNDECIDED"):
        _outcome(case, "skipped", check.verdict, text, place)
    else:
        SubElement(case, "system-out").text = _legal(f"{check.verdict}: {text}")


def _outcome(case: Element, tag: str, kind: str, message: str, text: str) -> None:
    SubElement(case, tag, type=kind, message=_legal(message)).text = _legal(text)


def _legal(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
