# SPDX-License-Identifier: Apache-2.0
"""Answers as text: streamed, side by side on a terminal, in blocks elsewhere."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import click
from finetree_api.trainer.v1 import serving_pb2

from finetree_cli.chat import Subject, Turn
from finetree_cli.output import Output, as_dict, plain
from finetree_cli.render import units


def show_turn(out: Output, turns: Iterator[Turn]) -> Turn | None:
    """Show answers as they come, and their speed on stderr; return the whole ones."""
    turn: Turn | None = None
    first = next(turns, None)
    if first is None:
        return None
    if len(first.texts) == 1:
        turn = _stream(first, turns)
    elif out.console().is_terminal:
        turn = _side_by_side(out, first, turns)
    else:
        turn = _blocks(out, first, turns)
    out.say(speed(turn))
    return turn


def _stream(first: Turn, turns: Iterator[Turn]) -> Turn:
    (label,) = first.texts
    shown = 0
    turn = first
    for turn in _with(first, turns):
        text = turn.texts[label]
        click.echo(plain(text[shown:]), nl=False)
        shown = len(text)
    click.echo()
    return turn


def _side_by_side(out: Output, first: Turn, turns: Iterator[Turn]) -> Turn:
    from rich.live import Live

    turn = first
    with Live(_columns(first), console=out.console(), refresh_per_second=12, vertical_overflow="visible") as live:
        for turn in _with(first, turns):
            live.update(_columns(turn))
    return turn


def _columns(turn: Turn) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for label in turn.texts:
        table.add_column(plain(label), ratio=1, overflow="fold")
    table.add_row(*(Text(plain(text)) for text in turn.texts.values()))
    return table


def _blocks(out: Output, first: Turn, turns: Iterator[Turn]) -> Turn:
    turn = deque(_with(first, turns), maxlen=1).pop()  # the last one is the whole
    for label, text in turn.texts.items():
        out.text(f"{label}:")
        out.text(text)
        out.text()
    return turn


def _with(first: Turn, turns: Iterator[Turn]) -> Iterator[Turn]:
    yield first
    yield from turns


def speed(turn: Turn) -> str:
    """One line: what each answer has in tokens and how it ended, and the speed of all."""
    parts = [
        f"{label}: {turn.finishes[label].new_tokens} tokens, "
        f"{units.word(serving_pb2.FinishReason, turn.finishes[label].reason)}"
        for label in turn.texts  # in the order that they were named in, not that of their ends
        if label in turn.finishes
    ]
    if turn.usages:
        parts.append(f"first token after {turn.first_token_seconds:.2f} s, {turn.tokens_per_second:.1f} tokens/s")
    return "; ".join(parts)


def turn_document(turn: Turn, subjects: list[Subject]) -> dict[str, Any]:
    """The answers to one message as JSON."""
    answers = [
        {
            "target": subject.label,
            "weights": subject.weights or "base",
            "text": turn.texts[subject.label],
            **as_dict(turn.finishes.get(subject.label, serving_pb2.Finish())),
        }
        for subject in subjects
    ]
    speeds = {"first_token_seconds": turn.first_token_seconds, "tokens_per_second": turn.tokens_per_second}
    return {"answers": answers, **speeds}
