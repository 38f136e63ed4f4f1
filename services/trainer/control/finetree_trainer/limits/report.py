# SPDX-License-Identifier: Apache-2.0
"""What is used of what: the limits of a project and of the caller."""

from finetree_api.trainer.v1 import limits_pb2
from finetree_runtime.server.identity import limits_of
from finetree_runtime.server.limits.table import WORDS, Budget, Caller
from sqlalchemy import Connection

from finetree_trainer.clock import Clock, timestamp
from finetree_trainer.limits import usage
from finetree_trainer.limits.periods import day_of, end_of_day, end_of_month, month_of
from finetree_trainer.limits.quotas import Quotas
from finetree_trainer.limits.usage import MICROS
from finetree_trainer.settings import Settings
from finetree_trainer.store.database import Store

_NOT_LISTED = ("burst",)


class LimitReport:
    """Answers GetLimits."""

    def __init__(self, store: Store, clock: Clock, quotas: Quotas) -> None:
        self._store, self._clock, self._quotas = store, clock, quotas

    async def report(self, caller: Caller) -> limits_pb2.GetLimitsResponse:
        """Describe every limit of a project and of a principal, also those that nothing states."""
        now = self._clock()
        found = [
            await self._usage(limit, subject, now)
            for subject in caller.subjects
            for limit in WORDS
            if limit not in _NOT_LISTED
        ]
        return limits_pb2.GetLimitsResponse(limits=found)

    async def _usage(self, limit: str, subject: str, now: int) -> limits_pb2.LimitUsage:
        value = self._quotas.table.value(limit, subject)
        found = limits_pb2.LimitUsage(limit=limit, subject=subject)
        if value is not None:
            found.value = float(value.amount if isinstance(value, Budget) else value)
        match limit:
            case "requests_per_second":
                pass
            case "running_jobs":
                found.used = self._quotas.running(subject)
            case "devices":
                found.used = self._quotas.devices(subject)
            case "queued_jobs":
                found.used = await self._store.read(lambda connection: usage.queued_jobs(connection, subject))
            case "dataset_bytes":
                found.used = await self._store.read(lambda connection: usage.dataset_bytes(connection, subject))
            case "upload_bytes_per_day":
                found.used = await self._store.read(lambda c: usage.uploaded(c, subject, day_of(now)))
                found.reset_time.CopyFrom(timestamp(end_of_day(now)))
            case "monthly_cost":
                await self._money(found, value, now)
            case _:
                found.used = self._quotas.open.count(limit, subject)
        return found

    async def _money(self, found: limits_pb2.LimitUsage, value: Budget | None, now: int) -> None:
        def read(connection: Connection) -> tuple[str, usage.MonthCost]:
            currency = value.currency if value else usage.currency_of(connection, found.subject, month_of(now))
            return currency, usage.month_cost(connection, found.subject, month_of(now), currency)

        currency, cost = await self._store.read(read)
        found.used, found.currency_code, found.unpriced_jobs = cost.micros / MICROS, currency, cost.unpriced
        found.reset_time.CopyFrom(timestamp(end_of_month(now)))


def server_limits(settings: Settings) -> dict[str, int]:
    """Limits of the service as a whole, as GetServerInfo shows them."""
    return {
        "max_upload_bytes": settings.max_upload_bytes,
        "max_project_bytes": settings.max_project_bytes,
        "max_watchers": settings.max_watchers,
        "max_watchers_per_caller": settings.max_watchers_per_caller,
        "max_queued_jobs": settings.max_queued,
        **limits_of(settings),
        "event_retention_seconds": int(settings.event_retention),
        "orphan_grace_seconds": int(settings.orphan_grace),
    }
