# SPDX-License-Identifier: Apache-2.0
"""The drawing of a comparison: whole, within its bounds, in both themes, and the same each time."""

import importlib.util
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from finetree_api.trainer.v1 import comparison_pb2
from finetree_cli.render.chart.comparison import COLORS, DARK, comparison_chart
from finetree_cli.render.chart.png import png
from finetree_cli.render.chart.svg import svg
from finetree_cli.render.comparison import conclusion, label

SPEC = importlib.util.spec_from_file_location("compared", Path(__file__).parents[1] / "compared.py")
compared = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(compared)
NAMESPACE = {"s": "http://www.w3.org/2000/svg"}


def draw(found):
    labels = [label(found, index) for index in range(len(found.jobs))]
    return comparison_chart(found, labels=labels, conclusion=conclusion(found))


def test_every_curve_and_metric_is_drawn_inside_of_the_picture():
    chart = draw(compared.comparison())
    root = ET.fromstring(svg(chart))
    lines = root.findall("s:polyline", NAMESPACE)
    assert len([line for line in lines if len(line.get("points").split()) > 2]) == 5
    places = [tuple(map(float, point.split(","))) for line in lines for point in line.get("points").split()]
    assert all(0 <= x <= chart.width and 0 <= y <= chart.height for x, y in places)
    texts = [node.text for node in root.findall("s:text", NAMESPACE)]
    assert {"loss (nats)", "eval_loss (nats)", "eval_loss (nats) in the end, less is better"} <= set(texts)
    assert "1.31, best" in texts
    assert any("rank 16 <b>|x|" in text for text in texts)


def test_a_dark_theme_changes_colors_that_are_there():
    text = svg(draw(compared.comparison()))
    assert "prefers-color-scheme: dark" in text
    drawn = text.partition("</style>")[2]
    for light, dark in DARK[:5]:
        assert f'"{light}"' in drawn
        assert f'[fill="{light}"]{{fill:{dark}}}' in text


def test_the_same_comparison_gives_the_same_bytes():
    assert svg(draw(compared.comparison())) == svg(draw(compared.comparison()))


def test_sixteen_jobs_are_told_apart_by_color_or_dash():
    found = comparison_pb2.CompareJobsResponse(units_per_point=1)
    for index in range(16):
        found.jobs.add(name=f"projects/p/jobs/{index}", method="lora")
        curve = found.curves.add(metric="loss", job=index)
        for step in (1, 2):
            curve.points.add(position=step, step=step, mean=index)
    lines = ET.fromstring(svg(draw(found))).findall("s:polyline", NAMESPACE)
    assert len({(line.get("stroke"), line.get("stroke-dasharray")) for line in lines}) == 16 == 2 * len(COLORS)


@pytest.mark.parametrize("value", [0.0, 2.5, -1e-9, 1e9])
def test_values_that_are_all_the_same_are_drawn(value):
    found = comparison_pb2.CompareJobsResponse(units_per_point=1)
    for index in range(2):
        found.jobs.add(name=f"projects/p/jobs/{index}")
        found.curves.add(metric="loss", job=index).points.add(position=1, step=1, mean=value)
    metric = found.metrics.add(metric="eval_loss", comparable=True)
    metric.values.add(value=value)
    metric.values.add(value=value)
    assert ET.fromstring(svg(draw(found))).tag.endswith("svg")
    assert png(draw(found)).startswith(b"\x89PNG")
