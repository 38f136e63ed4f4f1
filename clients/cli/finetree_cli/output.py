# SPDX-License-Identifier: Apache-2.0
"""Where words go: data to stdout, talk to stderr."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from rich.console import Console

PIPE_WIDTH = 120
"""Columns where stdout is no terminal: a table that is read by a program or a log is not squeezed into 80."""
HARMLESS = "\n\t\u200c\u200d"
"""Of what cannot be printed: ends of lines, tabs, and what scripts and emoji join letters with."""


def plain(text: str) -> str:
    """Text of somebody's without what a terminal would obey: names, data and messages may hold escape sequences."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in HARMLESS else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


@dataclass(slots=True)
class Output:
    """Prints the answer of a command as text or as JSON."""

    json: bool = False

    def document(self, document: Mapping[str, Any]) -> None:
        """The one JSON object of a command."""
        click.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))

    def message(self, message: "Message") -> None:
        """A message as the one JSON object of a command."""
        self.document(as_dict(message))

    def line(self, document: Mapping[str, Any]) -> None:
        """One object of a stream, on one line, at once."""
        click.echo(json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")))

    def text(self, text: str = "") -> None:
        """A line of the answer for people."""
        click.echo(plain(text))

    def styled(self, text: str) -> None:
        """A line with the colours that this program has put there; what is somebody's in it must be `plain`."""
        click.echo(text)

    def say(self, text: str) -> None:
        """A line of talk."""
        click.echo(plain(text), err=True)

    def console(self, *, err: bool = False) -> "Console":
        """A rich console on stdout, or on stderr."""
        from rich.console import Console

        stream = sys.stderr if err else sys.stdout
        width = None if stream.isatty() else PIPE_WIDTH
        return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)

    def heading(self, text: str) -> None:
        """The head of a section; bold on a terminal."""
        self.console().print(plain(text), style="bold")

    def paragraph(self, text: str) -> None:
        """Running text, wrapped to the width of the terminal."""
        self.console().print(plain(text))

    def bullet(self, text: str) -> None:
        """An item of a list, wrapped and set in."""
        import textwrap

        width = self.console().width
        self.text(textwrap.fill(text, width, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
        """A table on stdout; columns whose name begins with ">" are set to the right."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=plain(title) or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
        )
        for column in columns:
            justify: Literal["left", "right"] = "right" if column.startswith(">") else "left"
            table.add_column(column.removeprefix(">"), justify=justify, overflow="fold")
        for row in rows:
            table.add_row(*(Text(plain(cell)) for cell in row))
        self.console().print(table)


def as_dict(message: "Message") -> dict[str, Any]:
    """A message as proto JSON with int64 as numbers (proto JSON itself writes them as text)."""
    from finetree import to_json

    return to_json(message)
