# SPDX-License-Identifier: Apache-2.0
"""Metrics of a job in a file: what its log has, then what comes."""

from __future__ import annotations

import contextlib
from pathlib import Path

from finetree._shared import trainer_requests
from finetree._shared.follow import Pace, Start, follow_job
from finetree._sync.events import EventStream
from finetree._sync.pages import Pages
from finetree._sync.transport import Transport
from finetree.exports.target import KINDS, ExportFile


def write(transport: Transport, target: ExportFile, *, follow: bool, deadline: float | None) -> Path:
    """Bring a file up to its job's newest event; follow the job to its end if asked. Returns the file."""
    job = target.job
    with contextlib.closing(target):
        listing = trainer_requests.list_exported(job.name, target.seq, job.last_seq)
        for page in Pages(transport, listing, None, deadline=deadline).pages():
            target.write(page)
        target.reach(job.last_seq)
        if follow and not job.HasField("end_time"):
            rest = follow_job(job.name, start=Start(after_seq=target.seq), kinds=KINDS, pace=Pace())
            with EventStream(transport, rest, deadline=deadline) as stream:
                for event in stream:
                    target.write([event])
    return target.path
