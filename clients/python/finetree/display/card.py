# SPDX-License-Identifier: Apache-2.0
"""A card: what is shown of a message, whether as text or as HTML. Nothing in it is trusted."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

KEPT = "\u200c\u200d"
"""Unprintable characters that are kept: the joiners of scripts and emoji."""
CURVE = (360.0, 60.0)
"""Width and height of a curve in pixels."""
GRAY = "rgba(128,128,128,.35)"
TONES = {"good": "#1a7f37", "bad": "#cf222e", "wait": "#9a6700", "": "#57606a"}
"""Colors of a badge, readable on white text's side in light and dark themes."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings; a heading that begins with ">" is that of a column aligned to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Card:
    """What is shown of a message.

    Attributes:
        title: what it is.
        badge: a word on its state, and `tone`: "good", "bad", "wait" or "".
        lead: a sentence.
        progress: share that is done, from 0 to 1; None for none.
        facts: names and values.
        tables: further rows.
        curve: numbers by time, such as the loss.
        notes: further lines.
    """

    title: str
    badge: str = ""
    tone: str = ""
    lead: str = ""
    progress: float | None = None
    facts: tuple[tuple[str, str], ...] = ()
    tables: tuple[Table, ...] = ()
    curve: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return self.text()  # what a notebook shows where it cannot show HTML

    def _repr_html_(self) -> str:
        return self.html()

    def text(self) -> str:
        """Render as lines of text, without characters that control a terminal."""
        lines = [f"{plain(self.title)}: {plain(self.badge)}" if self.badge else plain(self.title)]
        if self.lead:
            lines.append(f"  {plain(self.lead)}")
        width = max((len(name) for name, _ in self.facts), default=0)
        lines += [f"  {plain(name):<{width}}  {plain(value)}" for name, value in self.facts]
        for table in self.tables:
            lines += _text_rows(table)
        return "\n".join([*lines, *(f"  - {plain(note)}" for note in self.notes)])

    def html(self) -> str:
        """Render as HTML, everything escaped; styles are inline, since notebooks keep no style sheets."""
        badge = (
            f'<span style="background:{TONES.get(self.tone, TONES[""])};color:#fff;border-radius:1em;padding:0 .6em;'
            f'margin-left:.5em;font-size:85%">{_safe(self.badge)}</span>'
            if self.badge
            else ""
        )
        parts = [f'<div style="overflow-wrap:anywhere"><b>{_safe(self.title)}</b>{badge}</div>']
        if self.lead:
            parts.append(f"<div>{_safe(self.lead)}</div>")
        if self.progress is not None:
            done = min(100.0, max(0.0, 100 * self.progress))
            parts.append(
                f'<div style="background:{GRAY};border-radius:3px;height:6px;margin:.4em 0">'
                f'<div style="background:{TONES["good"]};border-radius:3px;height:6px;width:{done:.1f}%"></div></div>'
            )
        if self.facts:
            rows = "".join(
                f'<tr><td style="text-align:left;opacity:.7">{_safe(name)}</td>'
                f'<td style="text-align:left">{_safe(value)}</td></tr>'
                for name, value in self.facts
            )
            parts.append(f"<table>{rows}</table>")
        parts += [_html_table(table) for table in self.tables]
        if len(self.curve) > 1:
            parts.append(_svg(self.curve))
        if self.notes:
            parts.append(f"<ul>{''.join(f'<li>{_safe(note)}</li>' for note in self.notes)}</ul>")
        return (
            f'<div style="border:1px solid {GRAY};border-radius:6px;padding:.6em .9em;max-width:60em;'
            f'line-height:1.4">{"".join(parts)}</div>'
        )


def plain(text: str) -> str:
    """Replace characters that control a terminal, line ends included: names, data and messages may contain some."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in KEPT else " " if letter in "\n\t" else "\N{REPLACEMENT CHARACTER}"
        for letter in text
    )


def _safe(text: str) -> str:
    return escape(plain(text), quote=True)


def _text_rows(table: Table) -> list[str]:
    rows = [tuple(column.removeprefix(">") for column in table.columns), *table.rows]
    cells = [tuple(plain(cell) for cell in row) for row in rows]
    widths = [max(len(row[number]) for row in cells) for number in range(len(table.columns))]
    lines = []
    for row in cells:
        aligned = [
            cell.rjust(width) if column.startswith(">") else cell.ljust(width)
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        ]
        lines.append(f"  {'  '.join(aligned)}".rstrip())
    return ["", *lines]


def _html_table(table: Table) -> str:
    sides = ["right" if column.startswith(">") else "left" for column in table.columns]
    head = "".join(
        f'<th style="text-align:{side}">{_safe(column.removeprefix(">"))}</th>'
        for side, column in zip(sides, table.columns, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="text-align:{side};vertical-align:top">{_safe(cell)}</td>'
            for side, cell in zip(sides, row, strict=True)
        )
        + "</tr>"
        for row in table.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _svg(values: tuple[float, ...]) -> str:
    """Draw a curve; its ends are labelled in the facts."""
    width, height = CURVE
    low, high = min(values), max(values)
    scale = (high - low) or 1.0
    points = " ".join(
        f"{width * number / (len(values) - 1):.1f},{height - 2 - (height - 4) * (value - low) / scale:.1f}"
        for number, value in enumerate(values)
    )
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" aria-label="loss">'
        f'<polyline points="{points}" fill="none" stroke="{TONES["good"]}" stroke-width="1.5"/></svg>'
    )
