# SPDX-License-Identifier: Apache-2.0
"""Draw a chart as PNG with Pillow and its built-in font."""

import io
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from finetree_cli.errors import NotAvailable
from finetree_cli.render.chart.memory import Box, Chart, Path, Stroke, Words

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

SCALE = 2
"""Pixels per unit of the layout."""
ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}
"""Pillow's anchor names, at the baseline."""


def png(chart: Chart) -> bytes:
    """Draw the image.

    Raises:
        NotAvailable: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        remedy = "pip install 'finetree-cli[charts]', or name a file that ends in .svg"
        raise NotAvailable("a PNG needs Pillow", remedy=remedy, reason="CHARTS_NOT_INSTALLED") from error

    image = Image.new("RGB", (round(chart.width * SCALE), round(chart.height * SCALE)), "#ffffff")
    draw = ImageDraw.Draw(image)
    for shape in chart.shapes:
        if isinstance(shape, Box):
            corners = (shape.x, shape.y, shape.x + shape.width, shape.y + shape.height)
            draw.rectangle(_scaled(*corners), fill=shape.fill)
        elif isinstance(shape, Stroke):
            ends = _scaled(shape.x1, shape.y1, shape.x2, shape.y2)
            draw.line(ends, fill=shape.color, width=max(1, round(shape.width * SCALE)))
        elif isinstance(shape, Path):
            for (x1, y1), (x2, y2) in pairwise(shape.points):
                draw.line(_scaled(x1, y1, x2, y2), fill=shape.color, width=max(1, round(shape.width * SCALE)))
        else:
            _write(draw, shape)
    target = io.BytesIO()
    image.save(target, "PNG", optimize=True)
    return target.getvalue()


def _write(draw: "ImageDraw", words: Words) -> None:
    from PIL import ImageFont

    font: Any = ImageFont.load_default(words.size * SCALE)
    # The font has Latin-1 only; other characters are drawn as question marks.
    text = words.text.encode("latin-1", "replace").decode("latin-1")
    heavy = 1 if words.bold else 0
    place = (words.x * SCALE, words.y * SCALE)
    draw.text(place, text, font=font, fill=words.color, anchor=ANCHORS[words.anchor], stroke_width=heavy)


def _scaled(*values: float) -> tuple[float, ...]:
    return tuple(value * SCALE for value in values)
