# SPDX-License-Identifier: Apache-2.0
"""Every reason that the contract documents for an rpc of the trainer is met in a test of it."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[2]
PROTO = TESTS.parent / "protos/finetree_api/trainer/v1/trainer.proto"
FOLDERS = ("contract/trainer", "robustness/trainer", "unit/trainer", "unit/data")
CODES = {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "OUT_OF_RANGE"}
CODES |= {"RESOURCE_EXHAUSTED", "PERMISSION_DENIED"}


def documented() -> dict[str, set[str]]:
    """Reasons in the comments of the rpcs."""
    comments = re.findall(r"((?:  //[^\n]*\n)+)  rpc (\w+)", PROTO.read_text(encoding="utf-8"))
    return {
        rpc: set(re.findall(r"\b[A-Z]+(?:_[A-Z0-9]+)+\b", comment.partition("Errors:")[2])) - CODES
        for comment, rpc in comments
    }


def test_every_documented_reason_is_met_in_a_test():
    found = documented()
    assert found["CreateJob"] >= {"PLAN_DRIFT", "QUEUE_FULL"}
    files = [file for folder in FOLDERS for file in (TESTS / folder).rglob("test_*.py") if file != Path(__file__)]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    assert not {rpc: missing for rpc, reasons in found.items() if (missing := {r for r in reasons if r not in text})}
