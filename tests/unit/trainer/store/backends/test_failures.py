# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_trainer.store.backends.failures import as_domain, is_corrupt, why_away
from sqlalchemy.exc import OperationalError


class Refused(Exception):  # noqa: N818 - the driver's own
    def __init__(self, sqlstate) -> None:
        super().__init__("what a user wrote")
        self.sqlstate = sqlstate


def failed(sqlstate) -> OperationalError:
    return OperationalError("INSERT", None, Refused(sqlstate))


@pytest.mark.parametrize(
    ("sqlstate", "reason"),
    [
        ("53100", "DISK_FULL"),
        ("53300", "STORE_UNAVAILABLE"),  # too many connections
        ("57014", "STORE_UNAVAILABLE"),  # statement timeout
        ("57P01", "STORE_UNAVAILABLE"),  # the server stops
        ("57P03", "STORE_UNAVAILABLE"),  # the server starts
        ("25006", "STORE_UNAVAILABLE"),  # it has become a replica
        ("42501", "STORE_UNAVAILABLE"),  # a right was taken away
        ("40001", "STORE_UNAVAILABLE"),  # recovery on a replica
        (None, "STORE_UNAVAILABLE"),  # the connection
        ("XX001", "STORE_DAMAGED"),
        ("42P01", "STORE_DAMAGED"),
    ],
)
def test_a_failure_has_the_reason_that_says_what_to_do(sqlstate, reason):
    found = as_domain(failed(sqlstate))
    assert found.reason == reason
    assert is_corrupt(failed(sqlstate)) == (reason == "STORE_DAMAGED")
    assert "what a user wrote" not in found.message
    assert why_away(found) in {f"{reason} {sqlstate}", reason}


@pytest.mark.parametrize("sqlstate", ["23505", "22021"])
def test_a_statement_that_no_later_try_makes_right_is_not_called_an_outage(sqlstate):
    error = failed(sqlstate)
    assert as_domain(error) is error
