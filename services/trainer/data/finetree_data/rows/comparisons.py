# SPDX-License-Identifier: Apache-2.0
"""Two answers in columns of their own, and a column that says which is the better one: preference pairs."""

import re
from typing import Any

from finetree_data.columns.mapping import by_lower, first_of
from finetree_data.columns.names import CHOSEN, QUESTIONS
from finetree_data.errors import MarkedRowError, RowError

_ANSWER = re.compile(r"^(response|answer|output|completion|generation|human_ref|summary)[ _]?([01ab12])$")
_CHOICES = (
    *("better_response_id", "better_response", "better", "preference", "preferred", "winner", "choice", "chosen"),
    *("chosen_id", "chosen_index", "best", "overall_preference", "selected", "labels", "label"),
)
"""Names of which answer is the better one (PKU-SafeRLHF, AlpacaFarm, Chatbot Arena, SHP)."""
_TIES = ("tie", "both", "neither", "none", "tie (bothbad)", "both_bad", "same", "equal")


def is_comparison(value: dict[str, Any]) -> bool:
    """Return whether a row has a question, two answers, and which is the better one."""
    names = by_lower(value)
    return bool(_pair(names) and _choice(names) and _question(names)) and "rejected" not in names


def chosen_row(value: dict[str, Any]) -> dict[str, Any]:
    """Return a row with the better answer as "chosen" and the other as "rejected".

    Raises MarkedRowError for a tie, RowError where the better one cannot be told.
    """
    names = by_lower(value)
    pair, choice = _pair(names), _choice(names)
    first, second = (names[name] for name in pair)
    which = _which(value.get(choice), pair, shp=pair[0].startswith("human_ref"))
    if which is None:
        raise RowError(choice, f"must name one of {first!r} and {second!r}, is {str(value.get(choice))[:40]!r}")
    if which < 0:
        raise MarkedRowError(choice, "is a tie: neither answer is the better one")
    better, worse = (first, second) if which == 0 else (second, first)
    rest = {name: item for name, item in value.items() if name not in (first, second, choice)}
    asked = _question(names)
    rest["prompt"] = rest.pop(asked)
    return rest | {"chosen": value.get(better), "rejected": value.get(worse)}


def _question(names: dict[str, str]) -> str:
    return first_of(names, QUESTIONS) or first_of(names, ("history", "post", "context"))


def _pair(names: dict[str, str]) -> tuple[str, ...]:
    found = [match for name in names if (match := _ANSWER.match(name))]
    stems = {match[1] for match in found}
    endings = {match[2] for match in found}
    known = endings in ({"0", "1"}, {"1", "2"}, {"a", "b"})
    return tuple(sorted(match[0] for match in found)) if len(found) == 2 and len(stems) == 1 and known else ()


def _choice(names: dict[str, str]) -> str:
    # Where "chosen" is a text, it is the answer itself.
    found = first_of(names, _CHOICES)
    return "" if found.lower() in CHOSEN and len(names) < 4 else found


def _which(value: Any, pair: tuple[str, ...], *, shp: bool) -> int | None:
    """Return the index of the better answer; -1 for a tie, None where it cannot be told."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    word = str(value).strip().lower() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if word in _TIES:
        return -1
    if shp:  # 1 where the first answer has more votes
        return {"1": 0, "0": 1}.get(word)
    endings = [name[-1] for name in pair]
    last = re.sub(r"^(?:model|response|answer|output|completion|assistant)[ _]?", "", word)
    return endings.index(last) if last in endings else None
