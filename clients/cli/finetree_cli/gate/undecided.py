# SPDX-License-Identifier: Apache-2.0
"""What a check leaves open: which option gives a missing number, the lengths of the rows, or the runs of a month."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetree_api.types.v1 import check_pb2

_OPTIONS = {
    "dataset.profile.examples": "--examples N",
    "ownership": "--price ID, or --price-per-kwh AMOUNT",
    "ownership.owned.watts": "--watts W",
    "hardware": "--gpu NAME",
}
"""Option by the RunSpec path that a check without a number names."""
_LENGTHS = {
    "dataset.profile.total_tokens": "--tokens-per-example N, or dataset.path: FILE in the job file",
    "dataset.profile.token_lengths": "dataset.path: FILE in the job file",
}
"""What states the lengths of the rows, by the RunSpec path of a check that depends on them."""
_RUNS = "give runs_per_month"


def lacks_number(check: "check_pb2.Check") -> bool:
    """Tell whether a check is undecided because a number is missing, not because its limit is inside the range."""
    from finetree_api.types.v1 import check_pb2

    undecided = check.verdict == check_pb2.CHECK_VERDICT_UNDECIDED
    return undecided and not (check.HasField("measured") and check.HasField("limit"))


def message_with_option(check: "check_pb2.Check") -> str:
    """Return a check's message, with the option that gives a missing number: the message names the job file's key."""
    option = _OPTIONS.get(check.field_path, "") if lacks_number(check) else ""
    message = check.message.replace(_RUNS, f"{_RUNS} (--runs-per-month N)")
    for path, words in _LENGTHS.items():
        message = message.replace(f"({path})", f"({words})")
    return f"{message} ({option})" if option else message


def lengths_remedy(field_path: str) -> str:
    """Say how the lengths of the rows are stated, where a check names them as its setting; "" otherwise."""
    words = _LENGTHS.get(field_path, "")
    return f"state the lengths of the rows first: {words}" if words else ""
