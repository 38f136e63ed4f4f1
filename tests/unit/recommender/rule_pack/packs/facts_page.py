# SPDX-License-Identifier: Apache-2.0
"""Writes docs/playbook-facts.md from facts.json: `python tests/unit/recommender/rule_pack/packs/facts_page.py`."""

import json
import re
from pathlib import Path
from typing import Any

FACTS = Path(__file__).with_name("facts.json")
PAGE = Path(__file__).parents[5] / "docs" / "playbook-facts.md"

_HEAD = """# The playbook's facts

Every statement of the playbook, numbered, with its lines. *Served* means that the pack `playbook-1` holds it, or that a
recommendation follows from it, as the last column says; *superseded* means that the playbook contradicts itself or
physics there, and that the resolution named (`resolutions` in the pack) decides what is served instead. Paths are
those of the pack; `card` and `guide` are the replies of GetMethod and ListMethods. `*` stands for several entries, and
"answers" are requests whose verdict is the playbook's.

tests/unit/recommender/rule_pack/packs/test_facts.py compares each line with the loaded pack, and facts_page.py in that
folder writes this page.

"""


def facts() -> list[dict[str, Any]]:
    """The table, in the order of its numbers."""
    found: list[dict[str, Any]] = json.loads(FACTS.read_text(encoding="utf-8"))
    return found


def page() -> str:
    """The page as Markdown."""
    rows = facts()
    superseded = sum(fact["status"] == "superseded" for fact in rows)
    lines = [f"{len(rows)} facts: {len(rows) - superseded} served, {superseded} superseded.", ""]
    lines += ["| No | Lines | The playbook | Status | Where |", "| --- | --- | --- | --- | --- |"]
    lines += [_row(fact) for fact in rows]
    return _HEAD + "\n".join(lines) + "\n"


def _row(fact: dict[str, Any]) -> str:
    where = [f"`{path}`" for path in _places(fact.get("served", {}))]
    if fact.get("verdicts"):
        where.append("answers")
    if fact.get("proof"):
        where.append(f"proof `{fact['proof']}`")
    status = fact["status"]
    if status == "superseded":
        status = f"superseded by {fact['resolution']}: {fact['instead']}"
    says = fact["says"].replace("|", "\\|").replace("$", "\\$").replace("<", "&lt;")
    return f"| {fact['id']} | {fact['lines']} | {says} | {status} | {', '.join(where)} |"


def _places(served: dict[str, Any]) -> list[str]:
    """Paths with methods as one entry, each once and without what others of its kind repeat."""
    starred = (re.sub(r"(methods|card)\[[A-Z]+\]|(?<=\.)[A-Z]{4,}(?=$|\[)", _star, path) for path in served)
    whole = (re.sub(r"\[\d+\]", "[*]", path) for path in starred)
    # One field of a named entry stands for the entry.
    return list(dict.fromkeys(re.sub(r"(\[[^*\]]+\])\.[a-z_.]+$", r"\1", path) for path in whole))


def _star(match: re.Match[str]) -> str:
    return f"{match[1]}[*]" if match[1] else "*"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
