# SPDX-License-Identifier: Apache-2.0
"""Costs as FOCUS: the file that focus-validator has judged, and what its rules do not see."""

import csv
import io
import json
import runpy
from decimal import Decimal
from pathlib import Path

import pytest
from finetree_cli.render.trainer import focus

CHECK = runpy.run_path(str(Path(__file__).with_name("focus_check.py")))


def rows(*jobs: object, **options: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(focus.render(jobs, **options))))


def test_the_judged_file_is_what_is_written():
    assert focus.render(CHECK["sample"]()) == CHECK["SAMPLE"].read_text(encoding="utf-8"), "run focus_check.py"


def test_a_row_has_the_whole_cost_its_period_and_its_labels():
    (found,) = rows(CHECK["job"]("0192"), account="acct-1", provider="verda")
    assert found["BilledCost"] == found["EffectiveCost"] == "1.750000001"
    assert Decimal(found["ListCost"]) == Decimal(found["ListUnitPrice"]) * Decimal(found["PricingQuantity"])
    assert (found["ChargePeriodStart"], found["ChargePeriodEnd"]) == ("2026-11-30T22:30:00Z", "2026-12-01T01:00:00Z")
    assert (found["BillingPeriodStart"], found["BillingPeriodEnd"]) == ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")
    assert (Decimal(found["ConsumedQuantity"]), found["ConsumedUnit"]) == (Decimal("2.5"), "Hours")
    assert json.loads(found["Tags"]) == {"team": "search", "quoted": 'a "b", c'}
    assert (found["BillingAccountId"], found["SubAccountId"], found["ProviderName"]) == ("acct-1", "search", "verda")
    assert (found["x_EstimatedCost"], found["x_JobState"]) == ("1.8", "succeeded")
    assert set(found) == set(focus.COLUMNS)


@pytest.mark.parametrize(
    ("units", "nanos", "shown"), [(0, 0, "0.0"), (12, 0, "12.0"), (0, 50_000_000, "0.05"), (3, 1, "3.000000001")]
)
def test_amounts_are_exact_decimals(units, nanos, shown):
    amount = {"currency_code": "USD", "units": units, "nanos": nanos}
    (found,) = rows(CHECK["job"]("1", cost={"amount": amount}))
    assert found["BilledCost"] == shown


def test_december_ends_in_the_next_year():
    (found,) = rows(CHECK["job"]("1", start_time="2026-12-31T23:00:00Z", end_time="2026-12-31T23:30:00Z"))
    assert found["BillingPeriodEnd"] == "2027-01-01T00:00:00Z"


def test_jobs_without_a_price_or_an_end_have_no_row():
    assert focus.ended_with_cost(CHECK["job"]("1"))
    for field in ("cost", "end_time", "start_time"):
        job = CHECK["job"]("1")
        job.ClearField(field)
        assert not focus.ended_with_cost(job)
