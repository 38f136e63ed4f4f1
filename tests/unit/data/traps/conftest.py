# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN202 - a trap is a table row of keyword arguments
"""Traps: small files in the layouts of public ones, of which a careless reader learns the wrong thing.

A trap has `rows` (JSON lines) or `text` of a `file`, and a reading by fields of DatasetReading. What must come of it:

    spans    of each row that is read: ("prompt" or "learned", text) in order
    finding  (code, severity), with the mapping that is offered, and the spans that it gives
    refused  (reason, words of the message), with the mapping that is offered, and the spans that it gives
"""

import json
import re

import pytest
from finetree_data.errors import DatasetError
from finetree_data.findings.finding import settled
from finetree_data.options import Columns, Reading
from finetree_data.reader import RowFile

OFFER = re.compile(r"columns \{([^{}…]+: [^{}…]+)\}")
COLUMN = re.compile(r'(\w+): (?:"([^"]*)"|([^,"]+))(?:, |$)')


def spans_of(row):
    if not row.messages:
        return [("learned", row.text)]
    return [("learned" if m.role == "assistant" and m.learned else "prompt", m.content) for m in row.messages]


def offers_of(message):
    """The mappings that a message offers, read from its words as the command line does."""
    return [{part: quoted or plain for part, quoted, plain in COLUMN.findall(m)} for m in OFFER.findall(message)]


@pytest.fixture
def spring(tmp_path):
    """Read a trap, and hold what comes of it against what must."""

    def read(trap, columns=None):
        name = trap.get("file", "rows.jsonl")
        rows = trap.get("rows", ())
        text = trap.get("text") or "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (tmp_path / name).write_text(text, encoding="utf-8")
        named = columns or trap.get("columns", {})
        reading = Reading(name=name, columns=Columns(**named), **trap.get("reading", {}))
        file = RowFile(tmp_path / name, reading)
        found = [spans_of(row) for row in file.rows()]
        return found, file, settled(file.findings, reading)

    def check(trap):
        if "refused" in trap:
            with pytest.raises(DatasetError) as error:
                read(trap)
            reason, words = trap["refused"]
            assert error.value.reason == reason
            message = f"{error.value.problem} {error.value.remedy}"
            assert words in message
            offers = offers_of(message)
        else:
            spans, _, findings = read(trap)
            if "spans" in trap:
                assert spans == trap["spans"]
            grave = [(one.code, one.severity.name) for one in findings if one.severity.name != "NOTE"]
            assert grave == ([trap["finding"]] if "finding" in trap else [])
            offers = [offer for one in findings for offer in offers_of(one.message)]
            assert offers == [mapping for one in findings for mapping in one.mappings]
        if "offer" in trap:
            assert trap["offer"] in offers
            if trap["then"] is None:  # nothing is left
                with pytest.raises(DatasetError, match="no rows that can be used"):
                    read(trap, trap["offer"])
                return
            again, _, findings = read(trap, trap["offer"])
            assert again == trap["then"]
            assert not any(one.stops for one in findings) or trap.get("more")

    check.read = read
    return check
