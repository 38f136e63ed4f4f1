# SPDX-License-Identifier: Apache-2.0
"""Charts as PNG: the shapes of the layout in their positions."""

import io
import sys

import pytest
from finetree_cli.errors import NotAvailable
from finetree_cli.render.chart.memory import Box, Row, memory_chart
from finetree_cli.render.chart.png import SCALE, png

UNUSUAL = "a<b> & \x00\x0b é 中"


def test_png_shows_the_shapes_in_their_positions(rows):
    from PIL import Image

    chart = memory_chart(UNUSUAL, rows)
    image = Image.open(io.BytesIO(png(chart)))
    assert image.size == (round(chart.width * SCALE), round(chart.height * SCALE))
    for box in [shape for shape in chart.shapes if isinstance(shape, Box)]:
        position = (round((box.x + 2) * SCALE), round((box.y + box.height / 2) * SCALE))
        assert "#{:02x}{:02x}{:02x}".format(*image.getpixel(position)) == box.fill


@pytest.mark.parametrize("few", [[], [Row("g", "lora", note="MODEL_NOT_FOUND")]])
def test_a_chart_without_a_range_is_a_chart(few):
    assert png(memory_chart("t", few)).startswith(b"\x89PNG")


def test_the_same_rows_give_the_same_bytes(rows):
    assert png(memory_chart("t", rows)) == png(memory_chart("t", rows))


def test_without_pillow_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(NotAvailable) as caught:
        png(memory_chart("t", []))
    assert (caught.value.reason, "finetree-cli[charts]" in caught.value.remedy) == ("CHARTS_NOT_INSTALLED", True)
