# SPDX-License-Identifier: Apache-2.0
"""Datasets with several rows in one object, or a row in another object: both are converted to plain rows.

The first valid row of a file shows which of them it is; its columns then are those of the plain rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from finetree_data.errors import EmptyTextError, MarkedRowError, RowError
from finetree_data.rows.comparisons import chosen_row, is_comparison

Value = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Nesting:
    """How rows are extracted from an object, and a remark about it."""

    rows: Callable[[Value], Iterator[Value | RowError]]
    note: str


def detect_nesting(value: Value) -> Nesting | None:
    """Detect the nesting of a known dataset; None for a plain row."""
    return next((nesting for holds, nesting in _KNOWN if holds(value)), None)


def _seed_rows(value: Value) -> Iterator[Value | RowError]:
    for place, instance in enumerate(_listed(value, "instances")):
        if isinstance(instance, dict):
            given = {key: instance.get(key) for key in ("input", "output")}
            yield {"instruction": value.get("instruction")} | given
        else:
            yield RowError(f"instances[{place}]", "must be an object")


def _natural_rows(value: Value) -> Iterator[Value | RowError]:
    definition = value["Definition"]
    text = "\n".join(map(str, definition)) if isinstance(definition, list) else definition
    for place, instance in enumerate(_listed(value, "Instances")):
        output = instance.get("output") if isinstance(instance, dict) else None
        answer = output[0] if isinstance(output, list) and output else output
        if isinstance(answer, str) and isinstance(instance.get("input"), str):
            yield {"instruction": text, "input": instance["input"], "output": answer}
        else:
            yield RowError(f"Instances[{place}]", "must have an input and an output")


def _squad_rows(value: Value) -> Iterator[Value | RowError]:
    for at, paragraph in enumerate(_listed(value, "paragraphs")):
        if not isinstance(paragraph, dict):
            yield RowError(f"paragraphs[{at}]", "must be an object")
            continue
        for place, asked in enumerate(_listed(paragraph, "qas")):
            yield _squad_row(paragraph, asked, f"paragraphs[{at}].qas[{place}]")


def _squad_row(paragraph: Value, asked: Any, place: str) -> Value | RowError:
    answers = asked.get("answers") if isinstance(asked, dict) else None
    if not isinstance(answers, list):
        return RowError(f"{place}.answers", "must be a list")
    if not answers:
        error = MarkedRowError if asked.get("is_impossible") else EmptyTextError
        return error(f"{place}.answers", "is empty")
    answer = answers[0].get("text") if isinstance(answers[0], dict) else None
    return {"question": asked.get("question"), "context": paragraph.get("context"), "answer": answer}


def _tree_rows(value: Value) -> Iterator[Value | RowError]:
    node: Any = value["prompt"]
    turns: list[Value] = []
    while isinstance(node, dict) and len(turns) < 1000:
        turns.append({"role": node.get("role"), "content": node.get("text")})
        replies = [reply for reply in node.get("replies") or () if isinstance(reply, dict) and not reply.get("deleted")]
        node = min(replies, key=_rank, default=None)
    while turns and turns[-1]["role"] != "assistant":
        turns.pop()
    yield {"messages": turns} if turns else EmptyTextError("prompt.replies", "have no answer")


def _rank(reply: Value) -> float:
    rank = reply.get("rank")
    return float(rank) if isinstance(rank, int) else float("inf")


def _inner_row(value: Value) -> Iterator[Value | RowError]:
    yield value["row"] if isinstance(value.get("row"), dict) else RowError("row", "must be an object")


def _named_rows(value: Value) -> Iterator[Value | RowError]:
    for name, row in value.items():
        yield row if isinstance(row, dict) else RowError(str(name)[:60], "must be an object")


def _listed(value: Value, key: str) -> list[Any]:
    found = value.get(key)
    if not isinstance(found, list):
        raise RowError(key, "must be a list")
    return found


def _compared_rows(value: Value) -> Iterator[Value | RowError]:
    yield chosen_row(value)


_KNOWN: tuple[tuple[Callable[[Value], bool], Nesting], ...] = (
    (
        lambda value: "instruction" in value and isinstance(value.get("instances"), list),
        Nesting(_seed_rows, "Seed tasks as Self-Instruct's: each instance of an instruction is a row."),
    ),
    (
        lambda value: "Definition" in value and isinstance(value.get("Instances"), list),
        Nesting(_natural_rows, "A task of Natural Instructions: each instance is a row, its first output is learned."),
    ),
    (
        lambda value: isinstance(value.get("paragraphs"), list),
        Nesting(_squad_rows, "SQuAD's articles: each question is a row, its first answer is learned."),
    ),
    (
        lambda value: "message_tree_id" in value and isinstance(value.get("prompt"), dict),
        Nesting(_tree_rows, "OpenAssistant's message trees: of each, the branch of best rank is a row."),
    ),
    (is_comparison, Nesting(_compared_rows, "Two answers and which is better: the better one is learned.")),
    (
        lambda value: set(value) <= {"row_idx", "row", "truncated_cells"} and isinstance(value.get("row"), dict),
        Nesting(_inner_row, "An answer of Hugging Face's dataset server: its rows are read."),
    ),
    (
        lambda value: len(value) > 1 and all(isinstance(row, dict) and len(row) > 1 for row in value.values()),
        Nesting(_named_rows, "An object of rows by their names: each is a row."),
    ),
)
