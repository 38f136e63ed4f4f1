# SPDX-License-Identifier: Apache-2.0
"""Sweeps as text: what they will take, how far they are, which trial is the best."""

from collections.abc import Iterable

from finetree_api.trainer.v1 import sweep_pb2
from google.protobuf import json_format, struct_pb2

from finetree_cli.output import Output, short_name
from finetree_cli.render import units

SHOWN_REASONS = 3
"""Trials whose reason to stop is printed below the table."""


def values_of(trial: sweep_pb2.Trial) -> str:
    """Format a trial's values: "lora.rank=8, training.learning_rate=0.0002"."""
    return ", ".join(f"{patch.field_path}={_text(patch.value)}" for patch in trial.values)


def _text(value: struct_pb2.Value) -> str:
    if value.WhichOneof("kind") == "number_value":
        return f"{value.number_value:.6g}"
    return json_format.MessageToJson(value, indent=None).strip('"')


def state_of(trial: sweep_pb2.Trial) -> str:
    """Format a trial's state."""
    return units.word(sweep_pb2.TrialState, trial.state)


def show_price(out: Output, sweep: sweep_pb2.Sweep) -> None:
    """Say what a sweep should take, on stderr."""
    parts = [f"{len(sweep.trials)} trials"]
    if sweep.estimate.HasField("total_seconds"):
        parts.append(units.duration_range(sweep.estimate.total_seconds))
    if sweep.estimate.HasField("cost"):
        parts.append(units.money_range(sweep.estimate.cost))
    out.say(", ".join(parts))


def show_priced(out: Output, sweep: sweep_pb2.Sweep) -> None:
    """Print the trials of a sweep that is not created, and what all of them should take."""
    out.table([">Trial", "Values"], [(str(trial.number), values_of(trial)) for trial in sweep.trials])
    estimate = sweep.estimate
    if estimate.HasField("total_seconds"):
        out.text(f"time  {units.duration_range(estimate.total_seconds)}, one after another")
    if estimate.HasField("cost"):
        out.text(f"cost  {units.money_range(estimate.cost)}")
    if estimate.estimated_trials < len(sweep.trials):
        out.text(f"Only {estimate.estimated_trials} of the trials could be estimated.")


def show_sweep(out: Output, sweep: sweep_pb2.Sweep) -> None:
    """Print a sweep: its best trial in the first line, then all of them."""
    out.text(_headline(sweep))
    metric = sweep.template.metric
    rows = [
        (
            f"{trial.number} (best)" if trial.number == sweep.best_trial else str(trial.number),
            values_of(trial),
            state_of(trial),
            _value(trial),
            str(trial.step) if trial.HasField("value") else "-",
            short_name(trial.job) or "-",
        )
        for trial in sweep.trials
    ]
    out.table([">Trial", "Values", "State", f">{metric}", ">Step", "Job"], rows)
    stopped = [trial for trial in sweep.trials if trial.stopped_because or trial.error.message]
    for trial in stopped[:SHOWN_REASONS]:
        out.text(f"{trial.number}: {trial.stopped_because or trial.error.message}")
    if len(stopped) > SHOWN_REASONS:
        out.text(f"… and {len(stopped) - SHOWN_REASONS} more were stopped or failed; --json has each reason")
    if sweep.HasField("cost"):
        out.text(f"cost {units.money(sweep.cost)}")


def _headline(sweep: sweep_pb2.Sweep) -> str:
    state = units.word(sweep_pb2.SweepState, sweep.state)
    best = next((trial for trial in sweep.trials if trial.number == sweep.best_trial), None)
    if best is None:
        return f"sweep {short_name(sweep.name)} is {state}: {sweep.state_reason.text}"
    text = f"Best: trial {best.number} ({values_of(best)}), {sweep.template.metric} {_value(best)}"
    others = [str(number) for number in sweep.not_told_apart]
    if others:
        trials = "trial" if len(others) == 1 else "trials"
        text += f"; this data does not tell it from {trials} {', '.join(others)}"
    return text + ("" if sweep.HasField("end_time") else f" (so far; the sweep is {state})")


def _value(trial: sweep_pb2.Trial) -> str:
    if not trial.HasField("value"):
        return "-"
    if not trial.HasField("interval"):
        return f"{trial.value:.4g}"
    return f"{trial.value:.4g} ({trial.interval.low:.4g} to {trial.interval.high:.4g})"


def show_list(out: Output, sweeps: Iterable[sweep_pb2.Sweep]) -> None:
    """Print sweeps as a table."""
    rows = [
        (
            short_name(sweep.name),
            sweep.template.display_name,
            units.word(sweep_pb2.SweepState, sweep.state),
            str(sweep.best_trial or "-"),
            units.money(sweep.cost) if sweep.HasField("cost") else "-",
            units.instant(sweep.create_time),
        )
        for sweep in sweeps
    ]
    out.table(["Sweep", "Name", "State", ">Best trial", ">Cost", "Created"], rows)


class Progress:
    """Says on stderr what becomes of each trial."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._known: dict[int, tuple[int, str]] = {}

    def show(self, sweep: sweep_pb2.Sweep) -> None:
        """Say what has changed since the last time."""
        ended = sum(trial.state > sweep_pb2.TRIAL_STATE_RUNNING for trial in sweep.trials)
        for trial in sweep.trials:
            now = trial.state, f"{trial.value:.4g} at step {trial.step}" if trial.HasField("value") else ""
            before = self._known.get(trial.number, (sweep_pb2.TRIAL_STATE_WAITING, ""))
            self._known[trial.number] = now
            if now == before:
                continue
            parts = [f"[{ended}/{len(sweep.trials)}] trial {trial.number}", values_of(trial), state_of(trial)]
            if trial.state == sweep_pb2.TRIAL_STATE_STOPPED:
                parts.append(trial.stopped_because)
            elif now[1]:
                parts.append(f"{sweep.template.metric} {now[1]}")
            self._out.say("  ".join(parts))
