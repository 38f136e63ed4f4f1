# SPDX-License-Identifier: Apache-2.0
"""What a check leaves open, in the words of the command."""

import pytest
from finetree_api.types.v1 import check_pb2, evidence_pb2
from finetree_cli.gate.undecided import lengths_remedy, message_with_option

NUMBER = evidence_pb2.Interval(low=1, expected=2, high=3)


@pytest.mark.parametrize(
    ("message", "path", "told"),
    [
        ("possibly; state them first (dataset.profile.total_tokens)", "dataset.profile.total_tokens", "--tokens-per-"),
        ("possibly; state them first (dataset.profile.token_lengths)", "dataset.profile.token_lengths", "dataset.path"),
        ("fine; one run a month is counted: give runs_per_month", "hardware", "runs_per_month (--runs-per-month N)"),
    ],
)
def test_what_is_open_is_told_with_the_option_that_closes_it(message, path, told):
    check = check_pb2.Check(message=message, field_path=path, measured=NUMBER, limit=2)
    assert told in message_with_option(check)
    assert "(dataset.profile" not in message_with_option(check)


def test_the_lengths_of_the_rows_come_before_any_change():
    assert lengths_remedy("dataset.profile.total_tokens").startswith("state the lengths of the rows first: --tokens-")
    assert lengths_remedy("training") == ""
