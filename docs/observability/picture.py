# SPDX-License-Identifier: Apache-2.0
"""Draw the dashboard from the answers of a running Prometheus: docs/images/dashboard.svg is made so, without Grafana.

python docs/observability/picture.py http://127.0.0.1:9090 600 > dashboard.svg    # the last 600 seconds
"""

import json
import math
import re
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

COLUMN, LINE = 50, 20
"""Pixels of a column and of a line of Grafana's grid, which has 24 columns."""
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf")
MOST_SERIES = 5
"""Names in a legend; what is drawn beyond them is counted."""
POINTS = 120
RATE_INTERVAL = "30s"

Series = tuple[str, list[tuple[float, float]]]


def main() -> None:
    """Write the picture to standard output."""
    server, seconds = sys.argv[1], float(sys.argv[2])
    dashboard = json.loads(Path(__file__).with_name("dashboard.json").read_text(encoding="utf-8"))
    end = time.time()
    span = end - seconds, end
    panels = dashboard["panels"]
    height = LINE * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {24 * COLUMN} {height}" font-family="sans-serif">')
    print(f'<rect width="{24 * COLUMN}" height="{height}" fill="#f4f5f7"/>')
    for panel in panels:
        print(_panel(panel, server, span))
    print("</svg>")


def _panel(panel: dict[str, Any], server: str, span: tuple[float, float]) -> str:
    place = panel["gridPos"]
    x, y, width, height = (COLUMN * place["x"], LINE * place["y"], COLUMN * place["w"], LINE * place["h"])
    title = escape(panel["title"])
    if panel["type"] == "row":
        inner = f'<text x="6" y="15" font-size="13" font-weight="bold" fill="#333">{title}</text>'
        return f'<g transform="translate({x},{y})">{inner}</g>'
    found = [series for target in panel["targets"] for series in _ask(server, target, span)]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    stacked = panel["fieldConfig"]["defaults"].get("custom", {}).get("stacking", {}).get("mode") == "normal"
    box = f'<rect x="3" y="3" width="{width - 6}" height="{height - 6}" rx="3" fill="#fff" stroke="#d8dbe0"/>'
    head = f'<text x="12" y="20" font-size="12" fill="#333">{title}</text>'
    if not any(points for _, points in found):
        body = (
            f'<text x="{width / 2}" y="{height / 2 + 8}" font-size="12" fill="#999" text-anchor="middle">no data</text>'
        )
    elif panel["type"] == "stat":
        value = _shown(found[0][1][-1][1], unit)
        body = f'<text x="{width / 2}" y="60" font-size="26" fill="#1f5f99" text-anchor="middle">{value}</text>'
    else:
        body = _curves(_stack(found) if stacked else found, span, unit=unit, size=(width, height))
    return f'<g transform="translate({x},{y})">{box}{head}{body}</g>'


def _ask(server: str, target: dict[str, Any], span: tuple[float, float]) -> list[Series]:
    query = target["expr"].replace("$instance", ".*").replace("$__rate_interval", RATE_INTERVAL)
    asked = {"query": query, "start": span[0], "end": span[1], "step": (span[1] - span[0]) / POINTS}
    url = f"{server}/api/v1/query_range?{urllib.parse.urlencode(asked)}"
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - the address that whoever draws has given
        result = json.load(answer)["data"]["result"]
    return [
        (
            _legend(target["legendFormat"], series["metric"]),
            [(float(at), float(value)) for at, value in series["values"] if math.isfinite(float(value))],
        )
        for series in result
    ]


def _legend(form: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), form).strip() or "value"


def _stack(found: Sequence[Series]) -> list[Series]:
    """Each series on top of those before it."""
    below: dict[float, float] = {}
    stacked = []
    for name, points in found:
        if not any(value for _, value in points):
            continue
        below |= {at: below.get(at, 0.0) + value for at, value in points}
        stacked.append((name, [(at, below[at]) for at, _ in points]))
    return stacked or list(found[:1])


def _curves(found: Sequence[Series], span: tuple[float, float], *, unit: str, size: tuple[int, int]) -> str:
    left, top, right, bottom = 58, 30, size[0] - 14, size[1] - 38
    most = max((value for _, points in found for _, value in points), default=0.0) * 1.1 or 1.0
    parts = []
    for share in (0.0, 0.5, 1.0):
        at = bottom - share * (bottom - top)
        parts.append(f'<line x1="{left}" x2="{right}" y1="{at}" y2="{at}" stroke="#eceef1"/>')
        shown = _shown(share * most, unit)
        parts.append(f'<text x="{left - 5}" y="{at + 4}" font-size="10" fill="#777" text-anchor="end">{shown}</text>')
    for number, (_, points) in enumerate(found):
        # Where an answer has a gap, so has the line.
        step, path, before = 2.5 * (span[1] - span[0]) / POINTS, [], -math.inf
        for at, value in points:
            across = left + (at - span[0]) / (span[1] - span[0]) * (right - left)
            path.append(
                f"{'M' if at - before > step else 'L'}{across:.1f},{bottom - value / most * (bottom - top):.1f}"
            )
            before = at
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<path d="{"".join(path)}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    names = [name for name, points in found if points]
    place: float = left
    drawn = 0
    for number, name in enumerate(names[:MOST_SERIES]):
        if place + 30 + 6 * len(name) > right and number:
            break
        drawn += 1
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<rect x="{place}" y="{size[1] - 22}" width="9" height="3" fill="{colour}"/>')
        parts.append(f'<text x="{place + 12}" y="{size[1] - 17}" font-size="10" fill="#555">{escape(name)}</text>')
        place += 24.0 + 6 * len(name)
    if len(names) > drawn:
        parts.append(f'<text x="{place}" y="{size[1] - 17}" font-size="10" fill="#555">+{len(names) - drawn}</text>')
    return "".join(parts)


def _shown(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{100 * value:.0f} %"
    if unit == "s" and value:
        for size, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
            if value >= size:
                return f"{value / size:.3g} {name}"
        return f"{1000 * value:.3g} ms"
    for factor, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {name}"
    return f"{value:.3g}"


if __name__ == "__main__":
    main()
