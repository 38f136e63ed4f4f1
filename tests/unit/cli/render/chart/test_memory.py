# SPDX-License-Identifier: Apache-2.0
"""Positions of the shapes of a memory chart."""

from finetree_cli.render.chart.memory import RIGHT, WIDTH, Box, Chart, Row, Stroke, Words, memory_chart


def boxes(chart: Chart) -> list[Box]:
    return [shape for shape in chart.shapes if isinstance(shape, Box)]


def test_the_same_size_is_at_the_same_position_and_more_is_further_right(rows):
    first, second, third, fourth = boxes(memory_chart("t", rows))
    assert (first.x, first.width) == (third.x, third.width)
    assert first.x < second.x
    assert first.x + first.width < second.x + second.width
    assert first.fill == third.fill == fourth.fill != second.fill


def test_every_shape_is_on_the_canvas(rows):
    chart = memory_chart("t", [*rows, Row("h200", "prefix", note="x" * 400)])
    for shape in chart.shapes:
        across = (shape.x1, shape.x2) if isinstance(shape, Stroke) else (shape.x,)
        down = (shape.y1, shape.y2) if isinstance(shape, Stroke) else (shape.y,)
        assert all(0 <= x <= WIDTH for x in across)
        assert all(0 <= y <= chart.height for y in down)
        if isinstance(shape, Box):
            assert shape.x + shape.width <= RIGHT
    notes = [shape.text for shape in chart.shapes if isinstance(shape, Words) and shape.x > RIGHT]
    assert max(map(len, notes)) <= 44
