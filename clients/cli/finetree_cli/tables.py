# SPDX-License-Identifier: Apache-2.0
"""Lay a table out in a width: as it is, with texts wrapped between words, or, where that is too narrow, as records."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

GAP = 3
"""Cells between two columns, as rich draws them; a table's edges have one fewer."""
LONGEST_WORD = 16
"""Cells of a word of a heading, or of a text, that is not folded: longer ones are addresses and names of jobs."""
CUT_TO = 10
"""Least cells of a column whose cells may be cut."""
SEPARATOR = " · "
NOTHING = ("", "-")
"""Cells that say nothing, which a record leaves out."""


def column_widths(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, texts: bool = False, cut: Sequence[str] = ()
) -> list[int] | None:
    """Return the width in cells of each column, with which a table takes at most `width`; None: it would fold words.

    The widest columns give way first, and none below its longest word. The first column names the row: it stays whole
    where it leaves half of the width to the others.

    Args:
        columns: the headings.
        rows: cells, one for each column.
        width: cells of the terminal.
        texts: whether cells are texts, of which words longer than `LONGEST_WORD` may be folded.
        cut: headings of columns whose cells may be cut, to `CUT_TO` at the least; then no cell is wrapped.
    """
    natural, least = [], []
    for number, column in enumerate(columns):
        heading, cells = column.removeprefix(">"), [row[number] for row in rows]
        whole = max(_widest_line(text) for text in (heading, *cells))
        heading_word = min(_longest_word([heading]), LONGEST_WORD)
        word = min(_longest_word(cells), LONGEST_WORD if texts else whole)
        natural.append(whole)
        if cut:
            least.append(min(whole, CUT_TO) if column in cut else whole)
        else:
            least.append(max(heading_word, word))
    name = max((_widest_line(row[0]) for row in rows), default=0)
    if not cut and name <= width // 2:
        least[0] = max(least[0], name)
    space = width - GAP * len(columns) + 1
    if sum(natural) <= space:
        return natural
    if sum(least) > space:
        return None
    most = max(most for most in range(space + 1) if sum(_given(natural, least, most)) <= space)
    widths = _given(natural, least, most)
    for number, whole in enumerate(natural):  # what is left, a cell for each that gave way
        if widths[number] < whole and sum(widths) < space:
            widths[number] += 1
    return widths


def _given(natural: Sequence[int], least: Sequence[int], most: int) -> list[int]:
    return [max(word, min(whole, most)) for whole, word in zip(natural, least, strict=True)]


def _widest_line(text: str) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, text.splitlines()), default=0)


def _longest_word(texts: Sequence[str]) -> int:
    from rich.cells import cell_len

    return max((cell_len(word) for text in texts for word in text.split()), default=0)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], *, one_line: bool = False
) -> "Table":
    """Draw a table with columns of these widths; `one_line`: cells are cut rather than wrapped.

    Columns whose name begins with ">" are aligned to the right.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, width in zip(columns, widths, strict=True):
        justify: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        drawn.add_column(
            column.removeprefix(">"),
            justify=justify,
            width=width,
            no_wrap=one_line,
            overflow="ellipsis" if one_line else "fold",
        )
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn


def records(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> "list[Text]":
    """Write each row as lines: its first cell, and below it the other cells behind their columns' names.

    A line is broken between cells, and within one only where that alone is wider than `width`.
    """
    import textwrap

    from rich.text import Text

    names = [column.removeprefix(">") for column in columns]
    lines = []
    for row in rows:
        # A number says little without the name of its column.
        first = f"{names[0]} {row[0]}" if columns[0].startswith(">") else row[0]
        lines.append(Text(first, style="bold"))
        line = ""
        for name, cell in zip(names[1:], row[1:], strict=True):
            if cell in NOTHING:
                continue
            part = f"{name} {cell}".strip()
            if line and _widest_line(line + SEPARATOR + part) > width - 2:
                lines += _wrapped(textwrap.wrap(line, width - 2))
                line = ""
            line = line + SEPARATOR + part if line else part
        lines += _wrapped(textwrap.wrap(line, width - 2))
    return lines


def _wrapped(lines: Sequence[str]) -> "list[Text]":
    from rich.text import Text

    return [Text(f"  {line}") for line in lines]
