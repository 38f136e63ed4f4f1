# SPDX-License-Identifier: Apache-2.0
"""Checks without a number: which option gives what is missing."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetree_api.types.v1 import check_pb2

_OPTIONS = {
    "dataset.profile.examples": "--examples N",
    "ownership": "--price ID, or --price-per-kwh AMOUNT",
    "ownership.owned.watts": "--watts W",
    "hardware": "--accelerator NAME",
}
"""Option by the RunSpec path that a check without a number names."""


def lacks_number(check: "check_pb2.Check") -> bool:
    """Tell whether a check is undecided because a number is missing, not because its limit is inside the range."""
    from finetree_api.types.v1 import check_pb2

    undecided = check.verdict == check_pb2.CHECK_VERDICT_UNDECIDED
    return undecided and not (check.HasField("measured") and check.HasField("limit"))


def message_with_option(check: "check_pb2.Check") -> str:
    """Return a check's message, with the option that gives a missing number: the message names the job file's key."""
    option = _OPTIONS.get(check.field_path, "") if lacks_number(check) else ""
    return f"{check.message} ({option})" if option else check.message
