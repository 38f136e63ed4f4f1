# SPDX-License-Identifier: Apache-2.0
"""The report as workflow commands: read back as GitHub's runner reads them, whatever the text."""

import re

import gate_reports as sample
import pytest
from finetree_cli.errors import BadInput, FileProblem, Position
from finetree_cli.render.gate import github

COMMAND = re.compile(r"^::(?P<kind>\w+) (?P<properties>.*?)::(?P<text>.*)$")


def parsed(text: str) -> list[dict[str, str]]:
    """Read commands as the runner does: split at the first `::` after the properties, at commas, at the first `=`."""
    found = []
    for line in text.splitlines():
        match = COMMAND.match(line)
        assert match, line
        pairs = (item.split("=", 1) for item in match["properties"].split(","))
        values = {name: unescaped(value, properties=True) for name, value in pairs}
        found.append({"kind": match["kind"], "text": unescaped(match["text"]), **values})
    return found


def unescaped(text: str, *, properties: bool = False) -> str:
    for code, letter in {"%0D": "\r", "%0A": "\n", **({"%3A": ":", "%2C": ","} if properties else {})}.items():
        text = text.replace(code, letter)
    return text.replace("%25", "%")


def test_each_finding_is_an_annotation_of_its_line_and_what_stops_comes_first():
    found = parsed(github.render(sample.everything()))
    assert [(each["kind"], each["title"]) for each in found] == [
        ("error", "JOB_FILE_INVALID"),
        ("error", "cost: FAIL"),
        ("error", "fit: UNDECIDED"),
        ("warning", "duration_seconds: WARN"),
        ("notice", "energy_kwh: WAIVED"),
    ]
    assert found[1]["file"] == "training/fail.yaml"
    assert (found[1]["line"], found[1]["col"]) == ("3", "1")
    assert found[1]["text"] == "$62.00 is above $50.00; passes with training.epochs: 1"


@pytest.mark.parametrize("text", ["50 %, 1:2\r\n::error::x", "%0A%2C", "a,b=c::d", "100%25"])
def test_any_text_is_read_back(text):
    finding = sample.check("cost", "FAIL", file=text, message=text)
    (found,) = parsed(github.render(sample.make(sample.entry(text, "FAIL", checks=(finding,)))))
    assert found["file"] == text
    assert found["text"].startswith(text)
    (stopped,) = parsed(github.annotate(BadInput("x", problems=[FileProblem(Position(text, 2, 3), text, text)]), "f"))
    assert stopped["file"] == text
    assert stopped["text"] == f"{text}: {text}"


def test_of_more_than_github_shows_the_last_says_how_many():
    jobs = [
        sample.entry(f"{n:02}.yaml", "FAIL", checks=(sample.check("cost", "FAIL", file=f"{n:02}.yaml"),))
        for n in range(25)
    ]
    found = parsed(github.render(sample.make(*jobs)))
    assert len(found) == github.SHOWN
    assert found[-1]["text"] == "16 more are in the step's summary"


def test_the_standard_input_has_no_line_in_the_repository():
    finding = sample.check("cost", "FAIL", file="<stdin>")
    assert "file=" not in github.render(sample.make(sample.entry("<stdin>", "FAIL", checks=(finding,))))


def test_where_every_limit_passes_there_is_nothing():
    assert github.render(sample.make(sample.entry(checks=(sample.check(),)))) == ""
