# SPDX-License-Identifier: Apache-2.0
"""Mappings that would read a column beside what a file's own mapping reads: for the user to copy."""

from collections.abc import Sequence

from finetree_data.columns.mapping import Mapping
from finetree_data.columns.names import ANSWERS, RIGHT
from finetree_data.options import RowFormat

MOST = 3
"""Mappings that are offered."""

_BEFORE = ("body", "passage", "article", "story", "paragraph", "premise", "background", "definition", "instruction")
"""Names of what a question follows: the numbers of SVAMP's problems stand in "Body", Natural Instructions' in
"definition"."""
_REASONING = ("rationale", "cot", "chain_of_thought", "reasoning", "thought", "explanation", "steps", "derivation")
"""Names of how an answer is found."""
_CODE = ("code", "canonical_solution", "program", "snippet", "sql", "script", "reply", "completion_text", "target_text")
"""Names of what may be the answer, where another column is read as that."""


def mappings_for(mapping: Mapping, present: dict[str, str], columns: dict[str, bool]) -> tuple[dict[str, str], ...]:
    """Return mappings that read the columns too, the likeliest first; of columns that no mapping can add, none.

    `present` are the parts of the mapping whose column the file has, `columns` say of which that is all that they can
    be: beside a prompt, since they are lists of texts, or since some row lacks them.
    """
    named = _named(mapping, present)
    found: list[dict[str, str]] = []
    for column, only_beside in columns.items():
        for offer in _offers(present, named, column):
            if offer not in found and (not only_beside or column in (offer.get("input"), offer.get("system"))):
                found.append(offer)
    return tuple(found[:MOST])


def _named(mapping: Mapping, present: dict[str, str]) -> dict[str, str]:
    """A mapping's own columns, as a user would name them."""
    parts = mapping.parts
    if "turns" in parts:
        return {"messages": parts["turns"]}
    if mapping.row_format is RowFormat.TEXT:
        return {"text": parts["text"]}
    pair = {"prompt": parts["prompt"], "completion": parts["completion"]}
    return pair | ({"input": present["context"]} if "context" in present else {})


def _offers(present: dict[str, str], named: dict[str, str], column: str) -> list[dict[str, str]]:
    name = column.lower()
    if "text" in named:
        pair = {"prompt": named["text"], "completion": column}
        return [pair if not _holds(name, _BEFORE) else {"prompt": column, "completion": named["text"]}]
    if "messages" in named:
        return [] if "system" in present else [named | {"system": column}]
    instead = {key: value for key, value in named.items() if key != "completion"} | {"completion": column}
    if _holds(name, (*_REASONING, *_CODE, *ANSWERS, *RIGHT)):
        return [instead]
    if "input" in named:
        return [] if "system" in present else [named | {"system": column}]
    if _holds(name, _BEFORE):
        return [{"prompt": column, "input": named["prompt"], "completion": named["completion"]}]
    return [{"prompt": named["prompt"], "input": column, "completion": named["completion"]}]


def _holds(name: str, words: Sequence[str]) -> bool:
    return any(word in name for word in words)
