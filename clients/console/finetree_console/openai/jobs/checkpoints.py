# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a job, from the events that told of them."""

from __future__ import annotations

from typing import Any

import finetree
from finetree_api.trainer.v1 import event_pb2
from starlette.requests import Request
from starlette.responses import Response

from finetree_console.openai.ids import checkpoint_id, job_id, job_of, seq_of
from finetree_console.openai.jobs.object import tuned_model
from finetree_console.openai.lists import limit_of, page

MOST = 100


async def list_checkpoints(request: Request) -> Response:
    """GET /v1/fine_tuning/jobs/{id}/checkpoints, newest first."""
    client: finetree.AsyncClient = request.app.state.client
    job = client.job(job_of(request.path_params["id"]))
    limit = limit_of(request, default=10, most=MOST)
    after = request.query_params.get("after")
    before = seq_of(after, "after") if after is not None else 0
    model = tuned_model(await job.refresh())
    saved = await job.list_events(last=limit + 1, kinds=["checkpoint_saved"], before_seq=before)
    newest_first = saved[::-1]
    shown = [await _object(job, event, model) for event in newest_first[:limit]]
    return page(shown, more=len(newest_first) > limit)


async def _object(job: finetree.AsyncJob, event: event_pb2.JobEvent, model: str) -> dict[str, Any]:
    saved = event.checkpoint_saved
    return {
        "id": checkpoint_id(event.job_uid, event.seq),
        "object": "fine_tuning.job.checkpoint",
        "created_at": event.event_time.seconds,
        "fine_tuned_model_checkpoint": f"{model}:ckpt-step-{saved.step}",
        "fine_tuning_job_id": job_id(event.job_uid),
        "step_number": saved.step,
        "metrics": await _metrics(job, event.seq, saved.step),
        "finetree": {"name": saved.name, "best": saved.best, "size_bytes": saved.size_bytes, "sha256": saved.sha256},
    }


async def _metrics(job: finetree.AsyncJob, seq: int, step: int) -> dict[str, Any]:
    """What was measured at the step: the newest of each kind before the checkpoint."""
    found: dict[str, Any] = {"step": step}
    for event in await job.list_events(last=1, kinds=["step_metrics"], before_seq=seq):
        if event.step_metrics.step == step and event.step_metrics.HasField("loss"):
            found["train_loss"] = event.step_metrics.loss
    for event in await job.list_events(last=1, kinds=["eval_metrics"], before_seq=seq):
        measured = event.eval_metrics
        if measured.step == step and measured.HasField("loss"):
            found["full_valid_loss"] = measured.loss
        if measured.step == step and measured.HasField("token_accuracy"):
            found["full_valid_mean_token_accuracy"] = measured.token_accuracy
    return found
