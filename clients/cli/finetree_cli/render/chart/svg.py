# SPDX-License-Identifier: Apache-2.0
"""Draw a chart as SVG: with a title, every text escaped, no scripts and no links."""

from xml.sax.saxutils import escape, quoteattr

from finetree_cli.render.chart.memory import Box, Chart, Path, Shape, Stroke, Words

FONTS = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


def svg(chart: Chart) -> str:
    """Draw the document."""
    size = f'width="{_n(chart.width)}" height="{_n(chart.height)}" viewBox="0 0 {_n(chart.width)} {_n(chart.height)}"'
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family={quoteattr(FONTS)}>',
        f"<title>{_text(chart.title)}</title>",
        *_dark(chart),
        f'<rect width="{_n(chart.width)}" height="{_n(chart.height)}" fill="#ffffff"/>',
        *map(_shape, chart.shapes),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _dark(chart: Chart) -> list[str]:
    """Other colors for a viewer with a dark theme: rules of a style sheet go before the attributes of shapes."""
    rules = (f'[fill="{light}"]{{fill:{dark}}}[stroke="{light}"]{{stroke:{dark}}}' for light, dark in chart.dark)
    return [f"<style>@media (prefers-color-scheme: dark) {{{''.join(rules)}}}</style>"] if chart.dark else []


def _shape(shape: Shape) -> str:
    if isinstance(shape, Box):
        place = f'x="{_n(shape.x)}" y="{_n(shape.y)}" width="{_n(shape.width)}" height="{_n(shape.height)}"'
        return f'<rect {place} rx="2" fill="{shape.fill}"/>'
    if isinstance(shape, Stroke):
        place = f'x1="{_n(shape.x1)}" y1="{_n(shape.y1)}" x2="{_n(shape.x2)}" y2="{_n(shape.y2)}"'
        return f'<line {place} stroke="{shape.color}" stroke-width="{_n(shape.width)}"/>'
    if isinstance(shape, Path):
        points = " ".join(f"{_n(x)},{_n(y)}" for x, y in shape.points)
        dash = f' stroke-dasharray="{" ".join(map(_n, shape.dash))}"' if shape.dash else ""
        style = f'fill="none" stroke="{shape.color}" stroke-width="{_n(shape.width)}" stroke-linejoin="round"'
        return f'<polyline points="{points}" {style}{dash}/>'
    return _words(shape)


def _words(words: Words) -> str:
    style = f'font-size="{_n(words.size)}" fill="{words.color}" text-anchor="{words.anchor}"'
    weight = ' font-weight="600"' if words.bold else ""
    return f'<text x="{_n(words.x)}" y="{_n(words.y)}" {style}{weight}>{_text(words.text)}</text>'


def _text(text: str) -> str:
    """Escape text and drop control characters, which XML 1.0 cannot represent."""
    return escape("".join(letter for letter in text if letter.isprintable()))


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
