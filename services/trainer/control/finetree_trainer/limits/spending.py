# SPDX-License-Identifier: Apache-2.0
"""Money of jobs: what a new one may cost at most, and what one that has ended has cost."""

from decimal import Decimal

from finetree_api.trainer.v1 import job_pb2
from finetree_runtime.money import to_decimal
from sqlalchemy import Connection

from finetree_trainer.estimator import hourly_price
from finetree_trainer.limits import usage
from finetree_trainer.limits.periods import month_of
from finetree_trainer.limits.usage import MICROS, CostRow
from finetree_trainer.store.jobs import JobRow


def expected_cost(record: job_pb2.Job, now: int) -> CostRow:
    """What a new job may cost: the high end of its estimate, or its own limit where that is lower."""
    estimate, project = record.estimate, record.name.split("/")[1]
    row = CostRow(record.uid, project, record.created_by, month_of(now), "", 0, 0)
    if not estimate.HasField("cost"):
        return row
    amount, currency = estimate.cost.amount, estimate.cost.currency_code
    most = Decimal(max(amount.high, amount.expected))
    if record.limits.HasField("max_cost") and record.limits.max_cost.currency_code == currency:
        most = min(most, to_decimal(record.limits.max_cost))
    price = hourly_price(estimate)
    hourly = to_decimal(price) if price is not None else Decimal(0)
    return CostRow(
        row.job_uid, row.project, row.owner, row.month, currency, round(hourly * MICROS), round(most * MICROS)
    )


def settle(connection: Connection, row: JobRow, snapshot: job_pb2.Job, now: int) -> None:
    """Note what a job that ends has cost: what its worker said last or, if nothing, its attempt's time at its price."""
    spent = round(to_decimal(snapshot.cost.amount) * MICROS) if snapshot.cost.HasField("amount") else None
    seconds = max(0, now - row.attempt_started) / 1e6 if row.attempt_started else 0.0
    usage.settle(connection, row.uid, spent, seconds=seconds)
