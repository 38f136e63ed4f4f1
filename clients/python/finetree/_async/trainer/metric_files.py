# SPDX-License-Identifier: Apache-2.0
"""Metrics of a job in a file: what its log has, then what comes."""

from __future__ import annotations

import contextlib
from pathlib import Path

from finetree._async.events import AsyncEventStream
from finetree._async.pages import AsyncPages
from finetree._async.transport import AsyncTransport
from finetree._shared import trainer_requests
from finetree._shared.follow import Pace, Start, follow_job
from finetree.exports.target import KINDS, ExportFile


async def write(transport: AsyncTransport, target: ExportFile, *, follow: bool, deadline: float | None) -> Path:
    """Bring a file up to its job's newest event; follow the job to its end if asked. Returns the file."""
    job = target.job
    with contextlib.closing(target):
        listing = trainer_requests.list_exported(job.name, target.seq, job.last_seq)
        async for page in AsyncPages(transport, listing, None, deadline=deadline).pages():
            target.write(page)
        target.reach(job.last_seq)
        if follow and not job.HasField("end_time"):
            rest = follow_job(job.name, start=Start(after_seq=target.seq), kinds=KINDS, pace=Pace())
            async with AsyncEventStream(transport, rest, deadline=deadline) as stream:
                async for event in stream:
                    target.write([event])
    return target.path
