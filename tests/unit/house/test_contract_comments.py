# SPDX-License-Identifier: Apache-2.0
"""What the comments of the contract promise about errors: every rpc lists its own, with reasons that there are."""

import re
from pathlib import Path

import pytest
from finetree_api.types.v1 import error_reason_pb2

API = Path(__file__).resolve().parents[3] / "protos" / "finetree_api"
COMMENT = re.compile(r"((?:^ *//.*\n)+) *(service|rpc|ERROR_REASON)(\w*)(?:\s+(\w+))?", re.MULTILINE)
WORD = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
REASONS = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name}
CODES = {
    *("INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "OUT_OF_RANGE", "RESOURCE_EXHAUSTED"),
    *("PERMISSION_DENIED", "DEADLINE_EXCEEDED"),
}
ELSEWHERE = re.compile(r"\((?:[A-Z_]+, )+(?:job errors|the worker's loader)\)")
"""What the comment of a reason says that no rpc answers."""


def comments(kind: str) -> dict[str, str]:
    """Comment of every service, rpc or ErrorReason value by its name, unwrapped."""
    found = {}
    for file in sorted(API.glob("**/*.proto")):
        for match in COMMENT.finditer(file.read_text(encoding="utf-8")):
            text, keyword, rest, name = match.groups()
            if keyword == kind:
                lines = (line.strip().removeprefix("//").strip() for line in text.splitlines())
                found[f"{file.parent.parent.name}.{name or keyword + rest}"] = " ".join(lines)
    return found


RPCS = comments("rpc")
SERVICES = comments("service")
VALUES = {name.rpartition("ERROR_REASON_")[2]: text for name, text in comments("ERROR_REASON").items()}


@pytest.mark.parametrize("name", RPCS)
def test_every_rpc_lists_its_errors_with_reasons_of_the_contract(name):
    assert "Errors:" in RPCS[name]
    errors = RPCS[name].partition("Errors:")[2]
    unknown = {word for word in WORD.findall(errors) if word not in REASONS | CODES}
    assert not unknown


def test_every_reason_that_a_request_can_get_stands_at_an_rpc():
    said = {word for text in (*RPCS.values(), *SERVICES.values()) for word in WORD.findall(text)}
    of_jobs = {name for name, text in VALUES.items() if ELSEWHERE.search(text)}
    assert sorted(REASONS - of_jobs - said - {"UNSPECIFIED"}) == []


def test_comments_are_found():
    assert len(RPCS) > 35
    assert VALUES.keys() == REASONS
    assert len(SERVICES) == 4
