# SPDX-License-Identifier: Apache-2.0
"""Charts: well-formed and readable SVG whatever the texts, a PNG of the same shapes, and what stands where."""

import sys
from xml.etree import ElementTree as ET

import pytest
from finetree_cli.errors import NotAvailable
from finetree_cli.render.chart.memory import GIB, RIGHT, WIDTH, Box, Chart, Row, Stroke, Words, memory_chart
from finetree_cli.render.chart.png import SCALE, png
from finetree_cli.render.chart.svg import svg

NAMESPACE = {"s": "http://www.w3.org/2000/svg"}
NASTY = "a<b> & \"c\" 'd' ]]> \x00\x0b é 中"


def rows() -> list[Row]:
    found = []
    for group, limit in (("rtx-4090", 23.5), ("h200", 140.0)):
        for label, low, expected, high in (("lora", 10, 12, 16), ("full", 80, 100, 130)):
            verdict = "fits" if high < limit else "does not fit"
            values = [value * GIB for value in (low, expected, high, limit)]
            found.append(Row(group, label, *values, verdict=verdict, note=f"{verdict}, 3 h"))
    return found


def boxes(chart: Chart) -> list[Box]:
    return [shape for shape in chart.shapes if isinstance(shape, Box)]


def test_the_same_size_stands_at_the_same_place_and_more_stands_further_right():
    first, second, third, fourth = boxes(memory_chart("t", rows()))
    assert (first.x, first.width) == (third.x, third.width)
    assert first.x < second.x
    assert first.x + first.width < second.x + second.width
    assert first.fill == third.fill == fourth.fill != second.fill


def test_everything_stands_on_the_canvas():
    chart = memory_chart("t", [*rows(), Row("h200", "prefix", note="x" * 400)])
    for shape in chart.shapes:
        across = (shape.x1, shape.x2) if isinstance(shape, Stroke) else (shape.x,)
        down = (shape.y1, shape.y2) if isinstance(shape, Stroke) else (shape.y,)
        assert all(0 <= x <= WIDTH for x in across)
        assert all(0 <= y <= chart.height for y in down)
        if isinstance(shape, Box):
            assert shape.x + shape.width <= RIGHT
    notes = [shape.text for shape in chart.shapes if isinstance(shape, Words) and shape.x > RIGHT]
    assert max(map(len, notes)) <= 44


@pytest.mark.parametrize("few", [[], [Row("g", "lora", note="MODEL_NOT_FOUND")]])
def test_a_chart_of_nothing_is_a_chart(few):
    assert ET.fromstring(svg(memory_chart("t", few))).tag.endswith("svg")
    assert png(memory_chart("t", few)).startswith(b"\x89PNG")


def test_svg_is_well_formed_with_a_title_and_its_texts_as_they_are():
    root = ET.fromstring(svg(memory_chart(NASTY, [Row(NASTY, "lora", note=NASTY)])))
    printable = NASTY.replace("\x00", "").replace("\x0b", "")
    assert root.findtext("s:title", namespaces=NAMESPACE) == printable
    texts = [node.text for node in root.findall("s:text", NAMESPACE)]
    assert texts.count(printable) == 3
    assert {node.tag.rpartition("}")[2] for node in root.iter()} <= {"svg", "title", "rect", "line", "text"}


def test_the_same_rows_give_the_same_bytes():
    assert svg(memory_chart("t", rows())) == svg(memory_chart("t", rows()))
    assert png(memory_chart("t", rows())) == png(memory_chart("t", rows()))


def test_png_shows_the_shapes_where_they_stand():
    import io

    from PIL import Image

    chart = memory_chart(NASTY, rows())
    image = Image.open(io.BytesIO(png(chart)))
    assert image.size == (round(chart.width * SCALE), round(chart.height * SCALE))
    for box in boxes(chart):
        place = (round((box.x + 2) * SCALE), round((box.y + box.height / 2) * SCALE))
        assert "#{:02x}{:02x}{:02x}".format(*image.getpixel(place)) == box.fill


def test_without_pillow_the_refusal_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(NotAvailable) as caught:
        png(memory_chart("t", rows()))
    assert (caught.value.reason, "finetree-cli[charts]" in caught.value.remedy) == ("CHARTS_NOT_INSTALLED", True)
