# SPDX-License-Identifier: Apache-2.0
"""Reports the measurements of each finished run to the estimator, in the background.

A report is stored in the transaction that logs the run's end, so a restart loses none; its request id is made of the
job and the attempt, so none is counted twice. While the estimator is unavailable, reports are retried.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

from finetree_api.estimator.v1 import calibration_pb2, estimate_pb2
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_api.types.v1 import hardware_pb2, training_data_pb2
from finetree_runtime.errors import DomainError
from finetree_runtime.server.logging import get_logger
from sqlalchemy import Connection

from finetree_trainer.clock import timestamp
from finetree_trainer.estimator import EstimateUnavailableError, Estimator, Rates, ReportRefusedError
from finetree_trainer.joblog import states
from finetree_trainer.joblog.log import EventLog
from finetree_trainer.store import events, jobs, observation_reports
from finetree_trainer.store.jobs import JobRow
from finetree_trainer.store.observation_reports import ReportRow

FIRST_DELAY_SECONDS = 5.0
LONGEST_DELAY_SECONDS = 3600.0
"""Time to the next try: doubled after each, at most an hour."""
GIVE_UP_SECONDS = 7 * 86400.0
"""Age of a report after which it is dropped."""
BATCH = 20
"""Reports that are read from the store at once."""
_LAST_BLOCKS = 16
_KINDS = events.kinds_mask([event_pb2.EVENT_KIND_TERMINAL, event_pb2.EVENT_KIND_DATASET_REPORT])


class ObservationReporter:
    """Sends the reports that are due, as long as the service runs."""

    def __init__(self, log: EventLog, estimator: Estimator, rates: Rates) -> None:
        self._log, self._estimator, self._rates = log, estimator, rates
        self._wake = asyncio.Event()
        log.listeners.append(self._on_change)

    def _on_change(self, row: JobRow) -> None:
        if row.task == job_pb2.TASK_KIND_TRAIN and row.state in states.TERMINAL:
            self._wake.set()

    async def run(self) -> None:
        """Send reports until cancelled."""
        while True:
            self._wake.clear()
            wait = FIRST_DELAY_SECONDS
            try:
                wait = await self.send_due()
            except DomainError as refusal:
                get_logger().error("reports_not_sent", reason=refusal.reason)
            try:
                await asyncio.wait_for(self._wake.wait(), wait)
            except TimeoutError:
                continue

    async def send_due(self) -> float:
        """Send the reports that are due; return the seconds until the next one.

        Raises DomainError when the store cannot be used.
        """
        store = self._log.store
        while rows := await store.read(partial(_due, self._log.clock())):
            for row in rows:
                await self._send(row)
        following = await store.read(observation_reports.next_due)
        if following is None:
            return LONGEST_DELAY_SECONDS
        return min(max(0.05, (following - self._log.clock()) / 1e6), LONGEST_DELAY_SECONDS)

    async def _send(self, row: ReportRow) -> None:
        observation = await self._log.store.read(partial(self._observation, row))
        try:
            if observation is not None:
                await self._estimator.report(observation, request_id=f"{row.job_uid}-{row.attempt}")
        except EstimateUnavailableError as error:
            await self._log.store.write(partial(self._postpone, row, str(error)))
            return
        except ReportRefusedError as error:
            get_logger().info("report_refused", job=row.job_uid, why=str(error))
        await self._log.store.write(partial(_remove, row.job_uid))

    def _observation(self, row: ReportRow, connection: Connection) -> calibration_pb2.Observation | None:
        job = jobs.load(connection, row.job_uid)
        if job is None:
            return None
        found, _ = events.read_before(connection, job.uid, job.last_seq + 1, after=0, mask=_KINDS, blocks=_LAST_BLOCKS)
        record = job_pb2.Job.FromString(job.record)
        return observation_of(record, row, found, end=job.end_time, rates=self._rates())

    def _postpone(self, row: ReportRow, why: str, connection: Connection) -> None:
        now = self._log.clock()
        if now - row.created > GIVE_UP_SECONDS * 1e6:
            get_logger().warning("report_dropped", job=row.job_uid, why=why)
            observation_reports.remove(connection, row.job_uid)
            return
        delay = min(FIRST_DELAY_SECONDS * 2.0 ** min(row.tries, 20), LONGEST_DELAY_SECONDS)
        observation_reports.postpone(connection, row, now + int(delay * 1e6))


def observation_of(
    record: job_pb2.Job,
    row: ReportRow,
    found: Sequence[event_pb2.JobEvent],
    *,
    end: int,
    rates: hardware_pb2.MatrixRates | None,
) -> calibration_pb2.Observation | None:
    """Build a run's observation from its record and its last events, newest first; None if nothing was measured.

    `end` is the end of the run in microseconds, `rates` are the CPU's. The dataset profile is the worker's,
    counted with the model's tokenizer after the split: the estimate's own was a guess, whose error says nothing about
    the device.
    """
    terminal = next((event.terminal for event in found if event.WhichOneof("payload") == "terminal"), None)
    if terminal is None or not terminal.HasField("summary") or not terminal.summary.steps:
        return None
    summary = terminal.summary
    run = estimate_pb2.EstimateRunRequest(spec=record.train.spec, matrix_rates=rates)
    for event in found:
        if event.WhichOneof("payload") == "dataset_report" and event.dataset_report.HasField("profile"):
            _put_profile(run, event.dataset_report)
    observation = calibration_pb2.Observation(
        job=record.name,
        attempt=row.attempt,
        run=run,
        step_seconds=summary.median_step_seconds or None,
        total_seconds=summary.total_seconds or None,
        steps=summary.steps,
        end_time=timestamp(end),
    )
    # The peak is the process's memory on a CPU, and what torch has reserved on a GPU.
    if not summary.peak_memory_bytes:
        return observation
    if record.train.spec.hardware.WhichOneof("device") == "cpu":
        observation.device_bytes = summary.peak_memory_bytes
    else:
        observation.reserved_bytes = summary.peak_memory_bytes
    return observation


def _put_profile(run: estimate_pb2.EstimateRunRequest, report: event_pb2.DatasetReport) -> None:
    training = report.split == training_data_pb2.SPLIT_TRAIN
    if training and not run.HasField("dataset_profile"):
        run.dataset_profile.CopyFrom(report.profile)
    elif not training and not run.HasField("evaluation_profile"):
        run.evaluation_profile.CopyFrom(report.profile)
        # The split has been made: it is now a dataset of its own.
        run.spec.evaluation.ClearField("split_fraction")
        run.spec.evaluation.dataset.profile.CopyFrom(report.profile)


def _due(now: int, connection: Connection) -> list[ReportRow]:
    return observation_reports.due(connection, now, BATCH)


def _remove(uid: str, connection: Connection) -> None:
    observation_reports.remove(connection, uid)
