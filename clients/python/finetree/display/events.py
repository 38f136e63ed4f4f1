# SPDX-License-Identifier: Apache-2.0
"""Events of a job as lines of text."""

from __future__ import annotations

from collections.abc import Sequence

from finetree_api.trainer.v1 import event_pb2, job_pb2

from finetree.display import units

PHASES: dict[int, str] = {
    job_pb2.JOB_PHASE_START: "starting a worker",
    job_pb2.JOB_PHASE_DOWNLOAD_MODEL: "downloading the model",
    job_pb2.JOB_PHASE_CONVERT_MODEL: "preparing the model",
    job_pb2.JOB_PHASE_LOAD_MODEL: "loading the model",
    job_pb2.JOB_PHASE_TOKENIZE: "reading rows",
    job_pb2.JOB_PHASE_EVALUATE_BEFORE: "evaluating before training",
    job_pb2.JOB_PHASE_TRAIN: "training",
    job_pb2.JOB_PHASE_EVALUATE_AFTER: "evaluating after training",
    job_pb2.JOB_PHASE_SAVE: "saving",
    job_pb2.JOB_PHASE_EVALUATE: "evaluating",
    job_pb2.JOB_PHASE_MERGE: "merging",
    job_pb2.JOB_PHASE_EXPORT: "writing the export",
    job_pb2.JOB_PHASE_VERIFY: "asking the exported file",
}
"""Display names of the phases."""
NOTED_WAIT = 0.05
"""Share of the ranks' time that they waited from which on a line names whom they waited for."""
ENDS = (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED)


def event_line(event: event_pb2.JobEvent) -> str:
    """Format an event as one line; empty for an event that another one says too, and for logs."""
    payload = event.WhichOneof("payload")
    if payload == "step_metrics":
        step = event.step_metrics
        return f"step {step.step}/{step.total_steps}  {step_note(step)}"
    if payload == "phase_progress":
        at = event.phase_progress
        if at.phase == job_pb2.JOB_PHASE_EVALUATE and event.message:
            # It says which model is measured.
            return event.message
        rows = f", {at.done} rows" if at.unit == event_pb2.PROGRESS_UNIT_ROWS else ""
        return f"{PHASES.get(at.phase, 'working')} {at.fraction:.0%}{rows}"
    if payload == "eval_metrics":
        return _evaluation(event.eval_metrics)
    if payload in ("log_line", "forecast") or (payload == "state_changed" and event.state in ENDS):
        # Logs are asked for by themselves, the steps' lines have the remaining time, the Terminal event the end.
        return ""
    return event.message


def step_note(step: event_pb2.StepMetrics) -> str:
    """Format loss, speed and remaining time: "loss 1.234  812 tokens/s  1 min 5 s left"."""
    loss = f"loss {step.loss:.3f}" if step.HasField("loss") else "loss not finite"
    left = f"  {units.duration(step.eta_seconds.expected)} left" if step.HasField("eta_seconds") else ""
    ranks = f"  {ranks_note(step.ranks)}" if step.ranks else ""
    return f"{loss}  {units.count(step.tokens_per_second)} tokens/s{left}{ranks}"


def ranks_note(ranks: Sequence[event_pb2.RankMetrics]) -> str:
    """Format a step's ranks in one part of a line, however many: "4 ranks, 1.1 GiB to 1.2 GiB, waited 12% for rank 2".

    Memory is that of the rank that holds least and of the one that holds most, the share that of all ranks' time. The
    rank that computed longest, whom the others waited for, is named where they waited for a twentieth.
    """
    held = [rank.memory_bytes for rank in ranks]
    low, high = units.size(min(held)), units.size(max(held))
    parts = [f"{len(ranks)} ranks", low if low == high else f"{low} to {high}"]
    computed = sum(rank.compute_seconds for rank in ranks)
    waited = sum(rank.wait_seconds for rank in ranks)
    if waited >= NOTED_WAIT * (computed + waited) > 0:
        longest = max(ranks, key=lambda rank: rank.compute_seconds)
        name = f"{longest.rank} ({longest.device_id})" if longest.device_id else str(longest.rank)
        parts.append(f"waited {waited / (computed + waited):.0%} for rank {name}")
    return ", ".join(parts)


def _evaluation(found: event_pb2.EvalMetrics) -> str:
    parts = [f"evaluation at step {found.step} on {found.examples} rows"]
    if found.HasField("loss"):
        parts.append(f"loss {found.loss:.3f}")
    if found.HasField("exact_match"):
        parts.append(f"exact match {found.exact_match:.1%}")
    return "  ".join(parts)
