# SPDX-License-Identifier: Apache-2.0
"""Charts as SVG: well-formed whatever the texts are."""

from xml.etree import ElementTree as ET

import pytest
from finetree_cli.render.chart.memory import Row, memory_chart
from finetree_cli.render.chart.svg import svg

NAMESPACE = {"s": "http://www.w3.org/2000/svg"}
NASTY = "a<b> & \"c\" 'd' ]]> \x00\x0b é 中"


def test_svg_is_well_formed_with_a_title_and_its_texts_unchanged():
    root = ET.fromstring(svg(memory_chart(NASTY, [Row(NASTY, "lora", note=NASTY)])))
    printable = NASTY.replace("\x00", "").replace("\x0b", "")
    assert root.findtext("s:title", namespaces=NAMESPACE) == printable
    texts = [node.text for node in root.findall("s:text", NAMESPACE)]
    assert texts.count(printable) == 3
    assert {node.tag.rpartition("}")[2] for node in root.iter()} <= {"svg", "title", "rect", "line", "text"}


@pytest.mark.parametrize("few", [[], [Row("g", "lora", note="MODEL_NOT_FOUND")]])
def test_a_chart_without_a_range_is_a_chart(few):
    assert ET.fromstring(svg(memory_chart("t", few))).tag.endswith("svg")


def test_the_same_rows_give_the_same_bytes(rows):
    assert svg(memory_chart("t", rows)) == svg(memory_chart("t", rows))
