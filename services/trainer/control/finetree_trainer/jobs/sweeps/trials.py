# SPDX-License-Identifier: Apache-2.0
"""The trials of a sweep: how one is written down, what its job makes of it, and which of them is the best."""

from finetree_api.trainer.v1 import job_pb2, sweep_pb2
from finetree_runtime.money import to_decimal, to_money
from google.type import money_pb2

from finetree_trainer.jobs.sweeps import objective, search, settings

ENDED = frozenset(
    {
        sweep_pb2.TRIAL_STATE_SUCCEEDED,
        sweep_pb2.TRIAL_STATE_STOPPED,
        sweep_pb2.TRIAL_STATE_FAILED,
        sweep_pb2.TRIAL_STATE_CANCELLED,
    }
)
"""States that are final."""


def new_trial(sweep: sweep_pb2.SweepTemplate, number: int, values: search.Values) -> sweep_pb2.Trial:
    """Make a trial that waits."""
    patches = [
        settings.to_patch(parameter.field_path, value)
        for parameter, value in zip(sweep.parameters, values, strict=True)
    ]
    return sweep_pb2.Trial(number=number, values=patches, state=sweep_pb2.TRIAL_STATE_WAITING)


def described(sweep: sweep_pb2.SweepTemplate, values: search.Values) -> str:
    """Return values as text, for example "lora.rank=8, training.learning_rate=0.0002"."""
    parts = (
        f"{parameter.field_path}={settings.shown(value)}"
        for parameter, value in zip(sweep.parameters, values, strict=True)
    )
    return ", ".join(parts)


def stop(sweep: sweep_pb2.Sweep, code: str, text: str) -> None:
    """Make a running sweep stop: trials that wait never start."""
    sweep.state = sweep_pb2.SWEEP_STATE_CANCELLING
    sweep.state_reason.CopyFrom(job_pb2.StateReason(code=code, text=text))
    for trial in sweep.trials:
        if trial.state == sweep_pb2.TRIAL_STATE_WAITING:
            trial.state = sweep_pb2.TRIAL_STATE_CANCELLED


def state_of(job: job_pb2.Job, trial: sweep_pb2.Trial) -> sweep_pb2.TrialState.ValueType:
    """Return what its job's state makes of a trial."""
    match job.state:
        case job_pb2.JOB_STATE_SUCCEEDED:
            return sweep_pb2.TRIAL_STATE_SUCCEEDED
        case job_pb2.JOB_STATE_FAILED:
            return sweep_pb2.TRIAL_STATE_FAILED
        case job_pb2.JOB_STATE_CANCELLED:
            stopped = bool(trial.stopped_because)
            return sweep_pb2.TRIAL_STATE_STOPPED if stopped else sweep_pb2.TRIAL_STATE_CANCELLED
    return sweep_pb2.TRIAL_STATE_RUNNING


def cost_of(sweep: sweep_pb2.Sweep) -> money_pb2.Money | None:
    """Return what all trials have cost so far; None where none has a price."""
    costs = [trial.cost for trial in sweep.trials if trial.HasField("cost")]
    if not costs:
        return None
    return to_money(
        sum((to_decimal(cost) for cost in costs), start=to_decimal(money_pb2.Money())), costs[0].currency_code
    )


def rank(sweep: sweep_pb2.Sweep) -> None:
    """Name the best trial that has succeeded, and those that are not told apart from it."""
    metric, best = sweep.template.metric, None
    done = [
        trial for trial in sweep.trials if trial.state == sweep_pb2.TRIAL_STATE_SUCCEEDED and trial.HasField("value")
    ]
    for trial in done:
        if best is None or objective.better(metric, trial.value, best.value):
            best = trial
    sweep.best_trial = best.number if best is not None else 0
    sweep.ClearField("not_told_apart")
    if best is None or not best.HasField("interval"):
        return
    for trial in done:
        others = trial.number != best.number and trial.HasField("interval")
        if others and trial.interval.low <= best.interval.high and best.interval.low <= trial.interval.high:
            sweep.not_told_apart.append(trial.number)


def finish(sweep: sweep_pb2.Sweep, now: int) -> None:
    """End a sweep whose trials have all ended; `now` is in microseconds."""
    succeeded = sum(trial.state == sweep_pb2.TRIAL_STATE_SUCCEEDED for trial in sweep.trials)
    asked = sweep.state_reason.code == "CANCEL_REQUESTED"
    if asked:
        sweep.state = sweep_pb2.SWEEP_STATE_CANCELLED
    elif succeeded:
        sweep.state = sweep_pb2.SWEEP_STATE_SUCCEEDED
    elif sweep.state == sweep_pb2.SWEEP_STATE_CANCELLING:
        sweep.state = sweep_pb2.SWEEP_STATE_CANCELLED
    else:
        sweep.state = sweep_pb2.SWEEP_STATE_FAILED
    if sweep.state_reason.code == "TRIALS_RUN":
        text = f"{succeeded} of {len(sweep.trials)} trials have succeeded."
        code = "COMPLETED" if succeeded else "NO_TRIAL_SUCCEEDED"
        sweep.state_reason.CopyFrom(job_pb2.StateReason(code=code, text=text))
    sweep.end_time.FromMicroseconds(now)
