# SPDX-License-Identifier: Apache-2.0
"""SVG elements, each with a class, and with attributes for pages without a style sheet.

There is no script, no link, no style attribute and no style sheet inside, so that a page may take the picture in under
the strictest content policy. The ground is opaque: on a dark page it is a light card. A page that wants another look
styles the classes, which win over the attributes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

FONTS = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
GROUND, INK, FAINT, LINE = "#ffffff", "#1f2933", "#52606d", "#9aa5b1"
TAKEN = "#0b5cad"
_FILLS = {
    "background": GROUND,
    "decision": "#f5f7fa",
    "outcome": "#e3f4ea",
    "fit": "#fdf3dc",
    "vote": "#f5f7fa",
    "verdict": "#dcebfb",
}
_NARROW, _WIDE = frozenset("iljtfrI.,:;'|!()[] "), frozenset("mwMW@%&")


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A box in px."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Right edge."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """Lower edge."""
        return self.y + self.height

    def overlaps(self, other: "Rectangle") -> bool:
        """Whether two boxes share any area."""
        across = self.x < other.right and other.x < self.right
        return across and self.y < other.bottom and other.y < self.bottom


def document(title: str, description: str, width: float, *, height: float, body: Iterable[str]) -> str:
    """Write a whole file."""
    size = f'width="{number(width)}" height="{number(height)}" viewBox="0 0 {number(width)} {number(height)}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" class="finetree" font-family={quoteattr(FONTS)}>'
    lines = [head, f"<title>{clean(title)}</title>", f"<desc>{clean(description)}</desc>"]
    lines.append(rectangle(Rectangle(0, 0, width, height), "background"))
    return "\n".join([*lines, *body, "</svg>"]) + "\n"


def rectangle(place: Rectangle, kind: str, *, taken: bool = False) -> str:
    """Write a box of a kind."""
    at = f'x="{number(place.x)}" y="{number(place.y)}" width="{number(place.width)}" height="{number(place.height)}"'
    if kind == "background":
        return f'<rect class="background" {at} fill="{GROUND}"/>'
    stroke = f'stroke="{TAKEN if taken else LINE}" stroke-width="{"3" if taken else "1"}"'
    return f'<rect class="{_classes(kind, taken=taken)}" {at} rx="6" fill="{_FILLS[kind]}" {stroke}/>'


def path(points: Iterable[tuple[float, float]], *, taken: bool = False) -> str:
    """Write a line through points, with an arrow's head at its end."""
    found = list(points)
    words = " L".join(f"{number(x)} {number(y)}" for x, y in found)
    stroke = f'fill="none" stroke="{TAKEN if taken else LINE}" stroke-width="{"3" if taken else "1.5"}"'
    return f'<path class="{_classes("edge", taken=taken)}" d="M{words}" {stroke}/>\n{_head(*found[-2:], taken=taken)}'


def words(x: float, y: float, text: str, *, kind: str = "label", anchor: str = "start") -> str:
    """Write a line of text of a kind; `y` is the baseline."""
    size, color, weight = _LETTERS[kind]
    # An outline in the background's color keeps letters readable across lines.
    rim = f' stroke="{GROUND}" stroke-width="3" paint-order="stroke"' if kind == "value" else ""
    look = f'font-size="{size}" fill="{color}" font-weight="{weight}" text-anchor="{anchor}"'
    return f'<text class="{kind}" x="{number(x)}" y="{number(y)}" {look}{rim}>{clean(text)}</text>'


_LETTERS = {
    "title": (17, INK, 600),
    "heading": (13, INK, 600),
    "label": (12, INK, 400),
    "strong": (12, INK, 600),
    "value": (12, INK, 600),
    "note": (11, FAINT, 400),
    "mark": (11, TAKEN, 600),
}
"""Size in px, color and weight of each kind of text."""


def length(text: str, kind: str) -> float:
    """Width of a text in px, at most, for fonts as wide as DejaVu Sans."""
    size, _, weight = _LETTERS[kind]
    letters = sum(0.38 if c in _NARROW else 0.98 if c in _WIDE else 0.7 if c.isupper() else 0.62 for c in text)
    return letters * size * (1.13 if weight > 400 else 1)


def wrap(text: str, width: float, kind: str = "label") -> list[str]:
    """Wrap a text into lines of at most `width` px; a longer word stays whole."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and length(longer, kind) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def clean(text: str) -> str:
    """Escape a text, without the control characters that XML 1.0 cannot hold."""
    return escape("".join(letter for letter in text if letter.isprintable()))


def number(value: float) -> str:
    """Format a coordinate."""
    return f"{value:.1f}".removesuffix(".0")


def _classes(kind: str, *, taken: bool) -> str:
    return f"{kind} taken" if taken else kind


def _head(before: tuple[float, float], tip: tuple[float, float], *, taken: bool) -> str:
    """Draw a triangle at the end of a line that runs down or to the right."""
    x, y = tip
    corners = [(x, y), (x - 8, y - 4), (x - 8, y + 4)]
    if before[0] == x:
        corners = [(x, y), (x - 4, y - 8), (x + 4, y - 8)]
    points = " ".join(f"{number(a)},{number(b)}" for a, b in corners)
    return f'<polygon class="{_classes("head", taken=taken)}" points="{points}" fill="{TAKEN if taken else LINE}"/>'
