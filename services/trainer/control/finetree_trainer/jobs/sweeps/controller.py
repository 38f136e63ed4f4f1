# SPDX-License-Identifier: Apache-2.0
"""Runs sweeps: starts their trials, follows them by their events, stops those that fall behind, names the best.

Everything that a step decides is stored before it is done, and what is done is idempotent: a trial's job is created
under a request id made of sweep and number, and a job that is cancelled twice is cancelled once. So a restart repeats
at most the last step.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from finetree_api.trainer.v1 import event_pb2, job_pb2, sweep_pb2
from finetree_runtime.errors import DomainError, to_status
from finetree_runtime.ids import parse_name
from finetree_runtime.money import to_decimal
from finetree_runtime.server.logging import get_logger
from google.rpc import status_pb2
from sqlalchemy import Connection

from finetree_trainer.joblog.log import EventLog
from finetree_trainer.jobs.jobs import Jobs
from finetree_trainer.jobs.sweeps import objective, rows, settings, trials
from finetree_trainer.jobs.sweeps.halving import Halving
from finetree_trainer.jobs.sweeps.objective import Measured
from finetree_trainer.jobs.sweeps.sweeps import LIVE, Sweeps
from finetree_trainer.outages import is_outage, log_failure
from finetree_trainer.store import events, jobs
from finetree_trainer.store.jobs import JobRow
from finetree_trainer.store.sealed import Damaged

SWEEP_LABEL = "finetree.dev/sweep"
"""Label of a trial's job: the uid of its sweep."""
TICK_SECONDS = 1.0
"""Longest time between two looks at a sweep that lives: costs change without an event of the job's state."""
_MASK = events.kinds_mask([event_pb2.EVENT_KIND_EVAL_METRICS, event_pb2.EVENT_KIND_TERMINAL])


@dataclass(slots=True)
class _Seen:
    """What was read of a trial's log: up to which number, its evaluations by step, its summary once it has ended."""

    seq: int = 0
    evaluations: dict[int, event_pb2.EvalMetrics] = field(default_factory=dict)
    summary: event_pb2.RunSummary | None = None

    def curve(self, metric: str) -> list[Measured]:
        """Return the deciding metric's values, by step; the base model's is not among them."""
        found = (objective.measured(metric, self.evaluations[step]) for step in sorted(self.evaluations) if step)
        return [value for value in found if value is not None]


@dataclass(frozen=True, slots=True)
class _Look:
    """A trial's job as it is now, and its measured values."""

    job: job_pb2.Job
    curve: list[Measured]
    final: Measured | None


class SweepController:
    """Advances every sweep that lives."""

    def __init__(self, log: EventLog, jobs_: Jobs, sweeps_: Sweeps) -> None:
        self._log, self._jobs, self._sweeps = log, jobs_, sweeps_
        self._wake = asyncio.Event()
        self._trial_jobs: set[str] = set()
        self._seen: dict[str, _Seen] = {}
        log.listeners.append(self._on_change)
        sweeps_.listeners.append(self._wake.set)

    def _on_change(self, row: JobRow) -> None:
        if row.uid in self._trial_jobs:
            self._wake.set()

    async def run(self) -> None:
        """Advance sweeps until cancelled."""
        while True:
            self._wake.clear()
            live = await self._live()
            for uid in live:
                try:
                    await self._advance(uid)
                except DomainError as refusal:
                    log_failure(refusal, doing="advance_sweep", sweep=uid)
            if not live:
                self._trial_jobs.clear()
                self._seen.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), TICK_SECONDS if live else None)

    async def _live(self) -> list[str]:
        found = await self._log.store.read(lambda connection: rows.in_states(connection, LIVE))
        for row in found:
            if isinstance(row.record, Damaged):
                get_logger().error("sweep_record_damaged", sweep=row.uid)
        return [row.uid for row in found if not isinstance(row.record, Damaged)]

    async def _advance(self, uid: str) -> None:
        """Make one step: note what has happened, decide, then do what was decided."""
        sweep = await self._sweeps.get(uid)
        looks = {trial.number: await self._look(sweep, trial) for trial in sweep.trials if self._matters(sweep, trial)}

        def decide(stored: sweep_pb2.Sweep, _connection: Connection, now: int) -> bool:
            before = stored.SerializeToString(deterministic=True)
            self._note(stored, looks)
            _stop_at_cost(stored)
            if stored.state == sweep_pb2.SWEEP_STATE_RUNNING:
                self._stop_fallen(stored, looks)
                _start_following(stored)
            if all(trial.state in trials.ENDED for trial in stored.trials):
                trials.finish(stored, now)
            return stored.SerializeToString(deterministic=True) != before

        sweep = await self._sweeps.change(uid, decide)
        for trial in sweep.trials:
            if _runs(trial):
                await self._do(sweep, trial)

    def _matters(self, sweep: sweep_pb2.Sweep, trial: sweep_pb2.Trial) -> bool:
        """Return whether to read a trial's log: it runs, or others are compared with it and it was not read yet."""
        if not trial.job:
            return False
        return _runs(trial) or (sweep.template.HasField("halving") and _uid(trial) not in self._seen)

    # ------------------------------------------------------------------------------------------------ decide

    def _note(self, sweep: sweep_pb2.Sweep, looks: dict[int, _Look]) -> None:
        """Write down what the jobs of trials say."""
        for trial in sweep.trials:
            look = looks.get(trial.number)
            if look is None or not _runs(trial):
                continue
            job, newest = look.job, look.final or (look.curve[-1] if look.curve else None)
            trial.state = trials.state_of(job, trial)
            if newest is not None:
                trial.value, trial.step = newest.value, newest.step
                interval = newest.interval()
                trial.ClearField("interval")
                if interval is not None:
                    trial.interval.CopyFrom(interval)
            if job.cost.HasField("amount"):
                trial.cost.CopyFrom(job.cost.amount)
            if job.HasField("error"):
                trial.error.CopyFrom(job.error)
        cost = trials.cost_of(sweep)
        if cost is not None:
            sweep.cost.CopyFrom(cost)
        trials.rank(sweep)

    def _stop_fallen(self, sweep: sweep_pb2.Sweep, looks: dict[int, _Look]) -> None:
        """Mark running trials that fall behind, by the curves of all trials."""
        if not sweep.template.HasField("halving"):
            return
        rule, metric = _rule(sweep), sweep.template.metric
        curves = {
            trial.number: [(value.step, value.value) for value in self._seen[_uid(trial)].curve(metric)]
            for trial in sweep.trials
            if trial.job and _uid(trial) in self._seen
        }
        for trial in sweep.trials:
            look = looks.get(trial.number)
            if look is None or not _runs(trial) or trial.stopped_because:
                continue
            fallen = rule.fallen(trial.number, curves, look.job.progress.total_steps)
            if fallen is not None:
                trial.stopped_because = (
                    f"{metric} {fallen.value:.4g} at step {fallen.rung} is not among the best {fallen.kept} of "
                    f"{fallen.reached} trials"
                )

    # ---------------------------------------------------------------------------------------------------- do

    async def _do(self, sweep: sweep_pb2.Sweep, trial: sweep_pb2.Trial) -> None:
        """Create the job of a trial that runs, or cancel it where it must stop."""
        if not trial.job:
            await self._start(sweep, trial)
        elif trial.stopped_because:
            why = f"Stopped by its sweep: {trial.stopped_because}."
            # The trials that are left need the same base.
            await self._jobs.cancel(_uid(trial), save=False, why=why, may_rest=True)
        elif sweep.state == sweep_pb2.SWEEP_STATE_CANCELLING:
            await self._jobs.cancel(_uid(trial), save=True, why=f"Stopped with its sweep: {sweep.state_reason.text}")

    async def _start(self, sweep: sweep_pb2.Sweep, trial: sweep_pb2.Trial) -> None:
        template = sweep.template
        values = tuple(map(settings.from_patch, trial.values))
        project = parse_name(sweep.name, "sweeps").project
        try:
            job = settings.apply(template.job, list(template.parameters), values)
            job.display_name = f"{template.display_name or template.job.display_name or 'sweep'} #{trial.number}"
            job.labels[SWEEP_LABEL] = sweep.uid
            request_id = f"sweep-{sweep.uid}-{trial.number}"
            created = await self._jobs.create(project, sweep.created_by, job, request_id=request_id)
        except DomainError as refusal:
            if is_outage(refusal) or refusal.reason == "QUEUE_FULL":
                return  # tried again at the next step
            await self._record_start(sweep.uid, trial.number, job="", error=to_status(refusal))
            return
        self._trial_jobs.add(created.uid)
        await self._record_start(sweep.uid, trial.number, job=created.name, error=None)

    async def _record_start(self, uid: str, number: int, *, job: str, error: status_pb2.Status | None) -> None:
        def decide(stored: sweep_pb2.Sweep, _connection: Connection, _now: int) -> bool:
            trial = stored.trials[number - 1]
            trial.job = job
            if error is not None:
                trial.state = sweep_pb2.TRIAL_STATE_FAILED
                trial.error.CopyFrom(error)
            return True

        await self._sweeps.change(uid, decide)
        self._wake.set()

    # -------------------------------------------------------------------------------------------------- look

    async def _look(self, sweep: sweep_pb2.Sweep, trial: sweep_pb2.Trial) -> _Look:
        """Read a trial's job and the new part of its log."""
        uid, metric = _uid(trial), sweep.template.metric
        self._trial_jobs.add(uid)
        job = await self._jobs.get(uid)
        seen = self._seen.setdefault(uid, _Seen())
        await self._read(uid, seen, job.last_seq)
        if metric == "loss":
            return _Look(job, [], _training_loss(job, seen))
        curve = seen.curve(metric)
        return _Look(job, curve, _published(curve, seen.summary))

    async def _read(self, uid: str, seen: _Seen, last_seq: int) -> None:
        while seen.seq < last_seq:

            def load(connection: Connection) -> tuple[list[event_pb2.JobEvent], int]:
                reach = jobs.span(connection, uid)
                oldest = reach.oldest_seq if reach is not None else 1
                after = max(seen.seq, oldest - 1)
                return events.read_after(connection, uid, after, last_seq=last_seq, mask=_MASK)

            found, seen.seq = await self._log.store.read(load)
            for event in found:
                if event.kind == event_pb2.EVENT_KIND_EVAL_METRICS:
                    seen.evaluations[event.eval_metrics.step] = event.eval_metrics
                elif event.terminal.HasField("summary"):
                    seen.summary = event.terminal.summary


def _training_loss(job: job_pb2.Job, seen: _Seen) -> Measured | None:
    summary = seen.summary
    if summary is not None and summary.HasField("final_loss"):
        return Measured(job.progress.step, summary.final_loss)
    return Measured(job.progress.step, job.metrics.loss) if job.metrics.HasField("loss") else None


def _published(curve: list[Measured], summary: event_pb2.RunSummary | None) -> Measured | None:
    """Return the value of the weights that a job publishes: those of its best step where it keeps the best."""
    if summary is None or not curve:
        return None
    best = next((value for value in curve if value.step == summary.best_step), None)
    return best or curve[-1]


def _stop_at_cost(sweep: sweep_pb2.Sweep) -> None:
    template = sweep.template
    if sweep.state != sweep_pb2.SWEEP_STATE_RUNNING or not template.HasField("max_cost") or not sweep.HasField("cost"):
        return
    cost, most = to_decimal(sweep.cost), to_decimal(template.max_cost)
    if cost >= most and not all(trial.state in trials.ENDED for trial in sweep.trials):
        text = f"The trials have cost {cost:.4g} {sweep.cost.currency_code}; the limit is {most:.4g}."
        trials.stop(sweep, "COST_LIMIT", text)


def _start_following(sweep: sweep_pb2.Sweep) -> None:
    """Mark as many waiting trials as may run; their jobs are created once this is stored."""
    free = sweep.template.max_parallel - sum(_runs(trial) for trial in sweep.trials)
    for trial in sweep.trials:
        if free <= 0:
            return
        if trial.state == sweep_pb2.TRIAL_STATE_WAITING:
            trial.state, free = sweep_pb2.TRIAL_STATE_RUNNING, free - 1


def _rule(sweep: sweep_pb2.Sweep) -> Halving:
    asked = sweep.template.halving
    lowest = objective.LOWEST_IS_BEST[sweep.template.metric]
    return Halving(factor=asked.reduction_factor, min_steps=asked.min_steps, lowest=lowest)


def _runs(trial: sweep_pb2.Trial) -> bool:
    return trial.state == sweep_pb2.TRIAL_STATE_RUNNING


def _uid(trial: sweep_pb2.Trial) -> str:
    return trial.job.rpartition("/")[2]
