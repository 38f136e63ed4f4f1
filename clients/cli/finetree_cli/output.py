# SPDX-License-Identifier: Apache-2.0
"""Print: the answer to stdout, messages to stderr."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from rich.console import Console

PIPE_WIDTH = 120
"""Width in columns of texts where stdout is no terminal: in a log or a pipe they are not squeezed into 80."""
WIDEST = 100_000
"""Columns of a row in a pipe: more than the longest names together have."""
HARMLESS = "\n\t\u200c\u200d"
"""Unprintable characters that are kept: line ends, tabs, and the joiners of scripts and emoji."""


def plain(text: str) -> str:
    """Replace characters that control a terminal: names, data and messages may contain escape sequences."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in HARMLESS else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def _escaped(text: str) -> str:
    """Write characters of JSON that control a terminal, which may stand in its strings alone, by their numbers."""
    if text.isascii() and "\x7f" not in text:
        return text  # JSON itself escapes those below a space

    def escape(letter: str) -> str:
        return json.dumps(letter)[1:-1] if ord(letter) > 127 else "\\u007f"

    return "".join(letter if letter.isprintable() or letter in HARMLESS else escape(letter) for letter in text)


def short_name(resource: str) -> str:
    """Return the last part of a resource name, which commands accept in place of the whole."""
    return resource.rpartition("/")[2]


@dataclass(slots=True)
class Output:
    """Prints the answer of a command as text or as JSON."""

    json: bool = False
    quiet: bool = False
    """Whether messages are left out."""

    def document(self, document: Mapping[str, Any]) -> None:
        """Print the JSON object of a command."""
        click.echo(_escaped(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)))

    def message(self, message: "Message") -> None:
        """Print a message as the JSON object of a command."""
        self.document(as_dict(message))

    def line(self, document: Mapping[str, Any]) -> None:
        """Print an object of a stream on one line."""
        click.echo(_escaped(json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))))

    def text(self, text: str = "") -> None:
        """Print a line of the answer."""
        click.echo(plain(text))

    def styled(self, text: str) -> None:
        """Print a line that has this program's own colors; foreign text in it must be `plain`."""
        click.echo(text)

    def say(self, text: str) -> None:
        """Print a line on stderr."""
        if not self.quiet:
            click.echo(plain(text), err=True)

    def console(self, *, err: bool = False) -> "Console":
        """Create a rich console on stdout, or on stderr."""
        from rich.console import Console

        stream = sys.stderr if err else sys.stdout
        width = None if stream.isatty() else PIPE_WIDTH
        return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)

    def heading(self, text: str) -> None:
        """Print the heading of a section, bold on a terminal."""
        self.console().print(plain(text), style="bold")

    def paragraph(self, text: str) -> None:
        """Print text wrapped to the width of the terminal."""
        self.console().print(plain(text))

    def bullet(self, text: str) -> None:
        """Print an item of a list, wrapped and indented."""
        import textwrap

        width = self.console().width
        self.text(textwrap.fill(text, width, initial_indent="  - ", subsequent_indent="    ", break_on_hyphens=False))

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        title: str = "",
        wrap: bool = False,
        none: str = "",
    ) -> None:
        """Print a table; columns whose name begins with ">" are aligned to the right.

        Without a row it is one line, such as "no job" of a first column "Job". Where a terminal is too narrow for the
        longest words of all columns, each row is a record of lines instead.

        Args:
            columns: the heading of each.
            rows: cells, one for each column.
            title: printed above; empty: none.
            wrap: whether cells are texts, which wrap in a pipe too. Otherwise each row is one line there, however
                long, so that what reads it finds names whole.
            none: what is said without a row; empty: that there is none of the first column.
        """
        from rich.text import Text

        from finetree_cli import tables

        console = self.console()
        columns, rows = [plain(column) for column in columns], [[plain(cell) for cell in row] for row in rows]
        one_line = not (wrap or console.file.isatty())
        widths = tables.column_widths(columns, rows, WIDEST if one_line else console.width, texts=wrap)
        drawn = None if widths is None else tables.table(columns, rows, widths)
        if drawn is not None:
            needed = console.measure(drawn, options=console.options.update(width=WIDEST)).maximum
            console.width = max(console.width, needed)
        if title:
            # By itself: as a part of the table it would be wrapped to the table's width.
            console.print(Text(plain(title), style="bold"), soft_wrap=not console.file.isatty())
        if not rows:
            self.text(none or f"no {_inside_a_sentence(columns[0].removeprefix('>'))}".rstrip())
            return
        if drawn is not None:
            console.print(drawn)
            return
        for line in tables.records(columns, rows, console.width):
            console.print(line, soft_wrap=True)
        console.print()


def _inside_a_sentence(heading: str) -> str:
    """Write a heading as within a sentence: "job" for "Job", and "GPU" as it is."""
    return heading if heading[1:2].isupper() else heading.lower()


def as_dict(message: "Message") -> dict[str, Any]:
    """Convert a message to proto JSON, with int64 as numbers (proto JSON writes them as text)."""
    from finetree import to_json

    return to_json(message)
