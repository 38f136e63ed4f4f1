# SPDX-License-Identifier: Apache-2.0
"""Results of jobs as files: the metrics by step as CSV, and the files of every artifact."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import quote

import finetree
from finetree_api.trainer.v1 import artifact_pb2, event_pb2, job_pb2
from starlette.requests import Request
from starlette.responses import Response

from finetree_console.connection import Streamed
from finetree_console.openai.errors import refusal
from finetree_console.openai.ids import METRICS, ResultFile, uid_of
from finetree_console.openai.jobs.object import ENDED

METRICS_NAME = "step_metrics.csv"
COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
"""Columns of the metrics, as OpenAI's result files have them. `train_accuracy` is not measured and stays empty."""


def result_ids(job: job_pb2.Job, artifacts: Sequence[artifact_pb2.Artifact]) -> list[str]:
    """Ids of a job's results, the metrics first."""
    files = [
        ResultFile(job.uid, uid_of(artifact.name), index).id
        for artifact in artifacts
        for index, _ in enumerate(artifact.files)
    ]
    return [ResultFile(job.uid, METRICS).id, *files]


async def result_objects(client: finetree.AsyncClient, job: job_pb2.Job) -> AsyncIterator[dict[str, Any]]:
    """Iterate over the objects of a job's results."""
    handle = client.job(job.name)
    yield _object(ResultFile(job.uid, METRICS), METRICS_NAME, len(await _metrics(handle)), job.end_time.seconds)
    for artifact in await handle.artifacts():
        for index, file in enumerate(artifact.files):
            yield _artifact_object(ResultFile(job.uid, uid_of(artifact.name), index), artifact, file)


async def result_object(client: finetree.AsyncClient, wanted: ResultFile) -> dict[str, Any]:
    """Make the object of a result.

    Raises:
        RefusedError: FILE_NOT_FOUND.
    """
    job = await _ended(client, wanted)
    if wanted.artifact == METRICS:
        content = await _metrics(client.job(job.name))
        return _object(wanted, METRICS_NAME, len(content), job.end_time.seconds)
    return _artifact_object(wanted, *await _find(client, job, wanted))


async def result_content(request: Request, wanted: ResultFile) -> Response:
    """Answer with the bytes of a result.

    Raises:
        RefusedError: FILE_NOT_FOUND.
    """
    client: finetree.AsyncClient = request.app.state.client
    request.state.slot.become_stream()
    job = await _ended(client, wanted)
    handle = client.job(job.name)
    if wanted.artifact == METRICS:
        return Response(await _metrics(handle), media_type="text/csv", headers=_named(METRICS_NAME))
    artifact, file = await _find(client, job, wanted)
    headers = {
        "Content-Type": file.media_type or "application/octet-stream",
        "Content-Length": str(file.size_bytes),
        "ETag": f'"{file.sha256}"',
        **_named(_name(artifact, file)),
    }
    pieces = handle.read_file(artifact.name, file.path)
    return Streamed(pieces, headers=headers, release=pieces.aclose)


async def _ended(client: finetree.AsyncClient, wanted: ResultFile) -> job_pb2.Job:
    try:
        job = await client.get_job(wanted.job)
    except finetree.NotFound as error:
        raise _missing(wanted) from error
    if job.state not in ENDED:
        raise _missing(wanted, "; its job has not ended yet")
    return job


async def _find(
    client: finetree.AsyncClient, job: job_pb2.Job, wanted: ResultFile
) -> tuple[artifact_pb2.Artifact, artifact_pb2.ArtifactFile]:
    for artifact in await client.job(job.name).artifacts():
        if uid_of(artifact.name) == wanted.artifact and wanted.index < len(artifact.files):
            return artifact, artifact.files[wanted.index]
    raise _missing(wanted)


def _missing(wanted: ResultFile, why: str = "") -> finetree.FinetreeError:
    return refusal("file_id", f"there is no file {wanted.id!r}{why}", "FILE_NOT_FOUND", status=404)


async def _metrics(job: finetree.AsyncJob) -> bytes:
    """Losses by step; of a step that was repeated after a resume, those of its last attempt."""
    rows: dict[int, dict[str, Any]] = {}
    async with job.events(kinds=["step_metrics", "eval_metrics"]) as events:
        async for event in events:
            _add(rows, event)
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows[step] for step in sorted(rows))
    return text.getvalue().encode()


def _add(rows: dict[int, dict[str, Any]], event: event_pb2.JobEvent) -> None:
    if event.HasField("step_metrics"):
        row = rows.setdefault(event.step_metrics.step, {"step": event.step_metrics.step})
        if event.step_metrics.HasField("loss"):
            row["train_loss"] = event.step_metrics.loss
    elif event.HasField("eval_metrics"):
        measured = event.eval_metrics
        row = rows.setdefault(measured.step, {"step": measured.step})
        if measured.HasField("loss"):
            row["valid_loss"] = measured.loss
        if measured.HasField("token_accuracy"):
            row["valid_mean_token_accuracy"] = measured.token_accuracy


def _artifact_object(
    result: ResultFile, artifact: artifact_pb2.Artifact, file: artifact_pb2.ArtifactFile
) -> dict[str, Any]:
    found = _object(result, _name(artifact, file), file.size_bytes, artifact.create_time.seconds)
    return {**found, "finetree": {"artifact": artifact.name, "path": file.path, "sha256": file.sha256}}


def _object(result: ResultFile, name: str, size: int, created: int) -> dict[str, Any]:
    return {
        "id": result.id,
        "object": "file",
        "bytes": size,
        "created_at": created,
        "filename": name,
        "purpose": "fine-tune-results",
        "status": "processed",
    }


def _name(artifact: artifact_pb2.Artifact, file: artifact_pb2.ArtifactFile) -> str:
    """Name of a file with its artifact's folder, as `finetree jobs download` puts it."""
    return f"{uid_of(artifact.name)}/{file.path}"


def _named(name: str) -> dict[str, str]:
    """Headers of a file that is saved: what somebody trained is never a page of this server."""
    return {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name.rpartition('/')[2], safe='')}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
