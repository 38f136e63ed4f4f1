# SPDX-License-Identifier: Apache-2.0
"""Results of the demo, as text and as one JSON object."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.trainer.v1 import artifact_pb2, capacity_pb2, event_pb2
from finetree_api.types.v1 import evidence_pb2, run_spec_pb2

from finetree_cli.demo.dataset import MIN_COUNTRIES
from finetree_cli.errors import JobFailed, of_cli_error
from finetree_cli.output import Output, as_dict
from finetree_cli.render import units
from finetree_cli.render.trainer.artifacts import next_lines
from finetree_cli.render.trainer.jobs import final_steps

PROMISED_ACCURACY = 0.8
"""Share of the held-out questions that the trained model must answer for the demo to succeed."""


@dataclass(slots=True)
class Outcome:
    """Results of the demo; `see` collects them from the events of the training job."""

    job: str
    recommendation: recommendation_pb2.RecommendResponse
    estimate: estimate_pb2.Estimate
    machine: capacity_pb2.GetCapacityResponse
    countries: int
    spec: run_spec_pb2.RunSpec = field(default_factory=run_spec_pb2.RunSpec)
    """Spec of the job as the trainer has it."""
    terminal: event_pb2.Terminal = field(default_factory=event_pb2.Terminal)
    samples: list[event_pb2.Sample] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    last_event: str = ""
    artifacts: Sequence[artifact_pb2.Artifact] = ()
    folders: dict[str, Path] = field(default_factory=dict)
    """Local folder of each artifact by its name."""
    data_dir: Path | None = None
    """Data folder of the suite, which has stopped; None where nobody is to start it again."""

    def see(self, event: event_pb2.JobEvent) -> None:
        """Collect an event."""
        self.seqs.append(event.seq)
        self.last_event = event.WhichOneof("payload") or ""
        if event.WhichOneof("payload") == "sample" and event.sample.after:
            self.samples.append(event.sample)

    @property
    def summary(self) -> event_pb2.RunSummary:
        """Return the summary at the end of the job."""
        return self.terminal.summary

    def document(self) -> dict[str, Any]:
        """Build the JSON object."""
        summary = self.summary
        return {
            "countries": self.countries,
            "method": self.spec.WhichOneof("method"),
            "estimate": self._estimate(),
            "actual": {
                "device_bytes": summary.peak_memory_bytes,
                "total_seconds": summary.total_seconds,
                "phases": [as_dict(phase) for phase in summary.phases],
                "optimizer_steps": summary.steps,
                "processed_tokens": summary.processed_tokens,
                "median_step_seconds": summary.median_step_seconds,
            },
            "first_loss": summary.first_loss,
            "final_loss": summary.final_loss,
            "accuracy_before": summary.exact_match_before,
            "accuracy_after": summary.exact_match_after,
            "events": len(self.seqs),
            "events_gapless": self.seqs == list(range(1, len(self.seqs) + 1)),
            "last_event": self.last_event,
            "artifacts": [self._artifact(item) for item in self.artifacts],
            "samples": [as_dict(sample) for sample in self.samples],
            "job": self.job,
            "spec": as_dict(self.spec),
            "recommended_spec": as_dict(self.recommendation.spec),
            "plan_digest": self.recommendation.plan_digest,
            "machine": as_dict(self.machine),
        }

    def _estimate(self) -> dict[str, Any]:
        estimate = self.estimate
        found: dict[str, Any] = {
            "device_bytes": _interval(estimate.memory.device_bytes),
            "total_seconds": _interval(estimate.time.total_seconds),
            "optimizer_steps": estimate.optimizer_steps,
        }
        if estimate.cost.HasField("total"):
            found["cost"] = _interval(estimate.cost.total.amount)
            found["currency_code"] = estimate.cost.total.currency_code
        return found

    def _artifact(self, artifact: artifact_pb2.Artifact) -> dict[str, Any]:
        folder = self.folders.get(artifact.name)
        kind = units.word(artifact_pb2.ArtifactKind, artifact.kind)
        return {"name": artifact.name, "kind": kind, "path": str(folder or ""), "size_bytes": artifact.size_bytes}


def show_outcome(out: Output, outcome: Outcome) -> None:
    """Print the results: one object with --json, else a summary.

    Raises:
        JobFailed: The trained model answers too few of the held-out questions.
    """
    broken = broken_promise(outcome)
    if out.json:
        out.document(outcome.document() | (of_cli_error(broken).document() if broken else {}))
    else:
        _show_text(out, outcome)
    if broken is not None:
        raise broken


def _show_text(out: Output, outcome: Outcome) -> None:
    summary, estimate = outcome.summary, outcome.estimate
    out.text()
    for sample in outcome.samples:
        out.text(f"  asked     {_last_line(sample.prompt)}")
        out.text(f"  before    {_last_line(sample.before)}")
        out.text(f"  after     {_last_line(sample.after)}   (expected {sample.expected})")
    rows = [
        (_loss(summary), f"{summary.first_loss:.3f}", f"{summary.final_loss:.3f}"),
        ("held-out answers correct", f"{summary.exact_match_before:.1%}", f"{summary.exact_match_after:.1%}"),
    ]
    out.table(["", ">Before", ">After"], rows)
    total, peak = estimate.time.total_seconds, estimate.memory.device_bytes
    rows = [
        ("time", units.duration_range(total), units.duration(summary.total_seconds)),
        ("memory", units.size_range(peak), units.size(summary.peak_memory_bytes)),
        ("optimizer steps", str(estimate.optimizer_steps), str(summary.steps)),
    ]
    out.table(["", ">Estimated", ">Actual"], rows)
    for artifact in outcome.artifacts:
        kind = units.word(artifact_pb2.ArtifactKind, artifact.kind)
        folder = outcome.folders.get(artifact.name)
        out.text(f"{kind}: {folder or artifact.name}")
        for line in next_lines(artifact, folder) if folder is not None else ():
            out.text(line)
    if outcome.artifacts and outcome.data_dir is not None:
        again = shlex.join(["finetree", "up", "--data-dir", str(outcome.data_dir)])
        out.text(f"The services of the demonstration have stopped; before `finetree chat`: {again}")


def broken_promise(outcome: Outcome) -> JobFailed | None:
    """Return the error if the trained model answers too few of the held-out questions."""
    reached = outcome.summary.exact_match_after
    if reached >= PROMISED_ACCURACY:
        return None
    few = outcome.countries < MIN_COUNTRIES
    why = (
        f"with {outcome.countries} countries; use {MIN_COUNTRIES} or more"
        if few
        else "this is a bug in finetree: please report it"
    )
    text = f"only {reached:.1%} of the held-out answers are correct; expected are {PROMISED_ACCURACY:.0%}"
    return JobFailed(text, remedy=why, reason="DEMO_BELOW_PROMISE", reported=True)


def _loss(summary: event_pb2.RunSummary) -> str:
    """Say what the two losses are: of the first step, and the mean of the last ones."""
    last = final_steps(summary)
    return f"loss (after: mean of the last {last} steps)" if last > 1 else "loss"


def _interval(interval: evidence_pb2.Interval) -> dict[str, float]:
    return {"low": interval.low, "expected": interval.expected, "high": interval.high}


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""
