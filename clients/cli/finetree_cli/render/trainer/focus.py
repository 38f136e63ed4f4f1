# SPDX-License-Identifier: Apache-2.0
"""Costs of ended jobs as FOCUS, the FinOps Open Cost and Usage Specification: a CSV file, a row for each job.

Columns, names and allowed values are those of version 1.0 (focus.finops.org), all of them, in their order; own columns
begin with `x_` as it wants. A row is an internal charge and no invoice: what the trainer counted, at the price of the
job's estimate. A job is priced as a whole, hence a quantity of one job; the hours are what it consumed.
"""

import csv
import io
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from finetree_api.trainer.v1 import job_pb2

from finetree_cli.render import units

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp
    from google.type.money_pb2 import Money

COLUMNS = (
    *("AvailabilityZone", "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency"),
    *("BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription"),
    *("ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart", "CommitmentDiscountCategory"),
    *("CommitmentDiscountId", "CommitmentDiscountName", "CommitmentDiscountStatus", "CommitmentDiscountType"),
    *("ConsumedQuantity", "ConsumedUnit", "ContractedCost", "ContractedUnitPrice", "EffectiveCost"),
    *("InvoiceIssuerName", "ListCost", "ListUnitPrice", "PricingCategory", "PricingQuantity", "PricingUnit"),
    *("ProviderName", "PublisherName", "RegionId", "RegionName", "ResourceId", "ResourceName", "ResourceType"),
    *("ServiceCategory", "ServiceName", "SkuId", "SkuPriceId", "SubAccountId", "SubAccountName", "Tags"),
    *("x_EstimatedCost", "x_JobState", "x_PlanDigest"),
)
"""The columns of FOCUS 1.0 and three of ours; a column that a row leaves out is null."""
PUBLISHER = "finetree"
SERVICE = "Model training"


def ended_with_cost(job: job_pb2.Job) -> bool:
    """Tell whether a job has a row: it has ended, has run, and has a price."""
    return job.HasField("end_time") and job.HasField("start_time") and job.cost.HasField("amount")


def render(jobs: Iterable[job_pb2.Job], *, account: str = "", provider: str = PUBLISHER) -> str:
    """Format ended jobs that have a cost as CSV, those that ended first in front.

    Args:
        jobs: jobs for which `ended_with_cost` holds.
        account: identifier of the account that is charged; each job's project by default.
        provider: whose resources they are, for people.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for job in sorted(jobs, key=lambda each: (each.end_time.ToNanoseconds(), each.name)):
        writer.writerow(_row(job, account=account, provider=provider))
    return stream.getvalue()


def _row(job: job_pb2.Job, *, account: str, provider: str) -> dict[str, str]:
    project = job.name.split("/")[1]
    cost = _decimal(job.cost.amount)
    start, end = (stamp.ToDatetime(UTC) for stamp in (job.start_time, job.end_time))
    hardware = job.train.spec.hardware
    expected = job.estimate.cost
    return {
        **dict.fromkeys(("BilledCost", "ContractedCost", "EffectiveCost", "ListCost"), cost),
        **dict.fromkeys(("ContractedUnitPrice", "ListUnitPrice"), cost),
        "BillingAccountId": account or project,
        "BillingAccountName": account or project,
        "BillingCurrency": job.cost.amount.currency_code,
        "BillingPeriodStart": _stamp(_month(start)),
        "BillingPeriodEnd": _stamp(_month(start, after=1)),
        "ChargeCategory": "Usage",
        "ChargeDescription": f"{job.display_name or job.uid}: {job.cost.basis}",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": _time(job.start_time),
        "ChargePeriodEnd": _time(job.end_time),
        "ConsumedQuantity": f"{(end - start).total_seconds() / 3600:.6f}",
        "ConsumedUnit": "Hours",
        "InvoiceIssuerName": provider,
        "PricingCategory": "Standard",
        "PricingQuantity": "1.0",
        "PricingUnit": "Jobs",
        "ProviderName": provider,
        "PublisherName": PUBLISHER,
        "ResourceId": job.name,
        "ResourceName": job.display_name or job.uid,
        "ResourceType": "Fine-tuning job",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": SERVICE,
        "SkuId": hardware.accelerator or "cpu",
        "SkuPriceId": job.train.spec.ownership.rented.price_id or "estimate",
        "SubAccountId": project,
        "SubAccountName": project,
        "Tags": json.dumps(dict(sorted(job.labels.items())), ensure_ascii=False),
        "x_EstimatedCost": f"{expected.amount.expected:.9g}" if job.estimate.HasField("cost") else "",
        "x_JobState": units.word(job_pb2.JobState, job.state),
        "x_PlanDigest": job.plan_digest,
    }


def _decimal(amount: "Money") -> str:
    """Format an amount exactly: "12.400000001", "0.5"."""
    digits = f"{abs(amount.units)}.{abs(amount.nanos):09}".rstrip("0")
    sign = "-" if amount.units < 0 or amount.nanos < 0 else ""
    return f"{sign}{digits}0" if digits.endswith(".") else f"{sign}{digits}"


def _time(stamp: "Timestamp") -> str:
    return _stamp(stamp.ToDatetime(UTC))


def _stamp(moment: datetime) -> str:
    """Format as FOCUS wants dates: UTC, to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _month(moment: datetime, *, after: int = 0) -> datetime:
    """Return the first moment of a month, or of one after it."""
    months = moment.year * 12 + moment.month - 1 + after
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)
