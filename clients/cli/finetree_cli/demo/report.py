# SPDX-License-Identifier: Apache-2.0
"""What came of the demo, as text and as one JSON object."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetree_api.estimator.v1 import estimator_pb2
from finetree_api.recommender.v1 import recommender_pb2
from finetree_api.trainer.v1 import event_pb2, job_pb2, trainer_pb2
from finetree_api.types.v1 import evidence_pb2, run_spec_pb2

from finetree_cli.errors import JobFailed
from finetree_cli.output import Output, as_dict
from finetree_cli.render import units

PROMISED_ACCURACY = 0.8
"""Share of held-out questions that the trained model must answer: what the demo promises."""


@dataclass(slots=True)
class Outcome:
    """Everything that the demo learned; `see` gathers it from the events of the training job."""

    job: str
    recommendation: recommender_pb2.RecommendResponse
    estimate: estimator_pb2.Estimate
    machine: trainer_pb2.GetCapacityResponse
    spec: run_spec_pb2.RunSpec = field(default_factory=run_spec_pb2.RunSpec)
    """Of the job, as the trainer has it."""
    terminal: event_pb2.Terminal = field(default_factory=event_pb2.Terminal)
    samples: list[event_pb2.Sample] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)
    artifacts: Sequence[job_pb2.Artifact] = ()
    folders: dict[str, Path] = field(default_factory=dict)
    """Local folder of each artifact by its name."""

    def see(self, event: event_pb2.JobEvent) -> None:
        """Take note of an event."""
        self.seqs.append(event.seq)
        if event.WhichOneof("payload") == "sample" and event.sample.after:
            self.samples.append(event.sample)

    @property
    def summary(self) -> event_pb2.RunSummary:
        """Numbers at the end of the job."""
        return self.terminal.summary

    def document(self) -> dict[str, Any]:
        """The facts as JSON."""
        summary = self.summary
        return {
            "method": self.spec.WhichOneof("method"),
            "estimate": {
                "device_bytes": _interval(self.estimate.memory.device_bytes),
                "total_seconds": _interval(self.estimate.time.total_seconds),
                "cost_amount": _interval(self.estimate.cost.amount),
                "currency_code": self.estimate.cost.currency_code,
                "optimizer_steps": self.estimate.optimizer_steps,
            },
            "actual": {
                "device_bytes": summary.peak_memory_bytes,
                "total_seconds": summary.total_seconds,
                "phase_seconds": dict(summary.phase_seconds),
                "optimizer_steps": summary.steps,
                "processed_tokens": summary.processed_tokens,
                "median_step_seconds": summary.median_step_seconds,
            },
            "first_loss": summary.first_loss,
            "final_loss": summary.final_loss,
            "accuracy_before": summary.exact_match_before,
            "accuracy_after": summary.exact_match_after,
            "events": len(self.seqs),
            "artifacts": [self._artifact(item) for item in self.artifacts],
            "samples": [as_dict(sample) for sample in self.samples],
            "job": self.job,
            "spec": as_dict(self.spec),
            "recommended_spec": as_dict(self.recommendation.spec),
            "plan_digest": self.recommendation.plan_digest,
            "machine": as_dict(self.machine),
        }

    def _artifact(self, artifact: job_pb2.Artifact) -> dict[str, Any]:
        folder = self.folders.get(artifact.name)
        kind = units.word(job_pb2.ArtifactKind, artifact.kind)
        return {"name": artifact.name, "kind": kind, "path": str(folder or ""), "size_bytes": artifact.size_bytes}


def show_outcome(out: Output, outcome: Outcome) -> None:
    """Print the outcome: one object with --json, else a short summary."""
    if out.json:
        out.document(outcome.document())
        return
    summary, estimate = outcome.summary, outcome.estimate
    out.text()
    for sample in outcome.samples:
        out.text(f"  asked     {_last_line(sample.prompt)}")
        out.text(f"  before    {_last_line(sample.before)}")
        out.text(f"  after     {_last_line(sample.after)}   (expected {sample.expected})")
    rows = [
        ("loss", f"{summary.first_loss:.3f}", f"{summary.final_loss:.3f}"),
        ("held-out answers right", f"{summary.exact_match_before:.1%}", f"{summary.exact_match_after:.1%}"),
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
        kind = units.word(job_pb2.ArtifactKind, artifact.kind)
        out.text(f"{kind}: {outcome.folders.get(artifact.name, artifact.name)}")


def refuse_broken_promise(outcome: Outcome) -> None:
    """Raise JobFailed when the trained model answers fewer held-out questions than promised."""
    reached = outcome.summary.exact_match_after
    if reached < PROMISED_ACCURACY:
        text = f"only {reached:.1%} of the held-out answers are right; the demo promises {PROMISED_ACCURACY:.0%}"
        raise JobFailed(
            text, remedy="this is our fault: please report it with the lines above", reason="DEMO_BELOW_PROMISE"
        )


def _interval(interval: evidence_pb2.Interval) -> dict[str, float]:
    return {"low": interval.low, "expected": interval.expected, "high": interval.high}


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""
