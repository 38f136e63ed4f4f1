# SPDX-License-Identifier: Apache-2.0
"""A file that an export writes, and how far it is: interrupted at any moment, it goes on without a gap or a repetition.

The log decides what is in the file, so that the same events always give the same bytes. Beside the file stands which
event it has reached and how long it was then; what is behind that length was written before a kill and is written anew.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Literal

from finetree_api.trainer.v1 import event_pb2, job_pb2

from finetree.exports import table, tensorboard

Format = Literal["csv", "tensorboard"]
KINDS = ("step_metrics", "eval_metrics", "attempt_started")
"""Kinds of event that an export is made of."""
_FORMATS = {"csv": table, "tensorboard": tensorboard}
FORMATS = tuple(_FORMATS)
_SAVE_SECONDS = 1.0
"""Longest time of work that an interruption costs."""


class ExportFile:
    """The file of a job in a folder: FOLDER/{uid of the job}/metrics.csv, or the event file beside it.

    Attributes:
        path: of the file.
        job: as it was when the export began.
        seq: number of the event up to which everything is in the file.
    """

    def __init__(self, folder: Path, job: job_pb2.Job, kind: Format) -> None:
        self._made = _FORMATS[kind]
        own = folder / job.uid
        own.mkdir(parents=True, exist_ok=True)
        self.path: Path = own / self._made.file_name(job)
        self._place = own / f".{kind}.json"
        self.job, self._saved = job, 0.0
        self.seq, self._bytes = self._known()
        self._stream: BinaryIO = self.path.open("r+b" if self.seq else "wb")
        self._stream.truncate(self._bytes)
        self._stream.seek(self._bytes)
        if not self._bytes:
            self._append(self._made.beginning(job))

    def write(self, events: Iterable[event_pb2.JobEvent]) -> None:
        """Append events, in their order; those that are there already are left out."""
        for event in events:
            if event.seq > self.seq:
                self._append(self._made.part(event))
                self.seq = event.seq
        if time.monotonic() - self._saved >= _SAVE_SECONDS:
            self.save()

    def reach(self, seq: int) -> None:
        """Note that events up to a number have nothing more for the file."""
        self.seq = max(self.seq, seq)
        self.save()

    def save(self) -> None:
        """Flush the file, then note how far it is."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        note = {"job": self.job.name, "file": self.path.name, "seq": self.seq, "bytes": self._bytes}
        draft = self._place.with_name(f"{self._place.name}.part")
        draft.write_text(json.dumps(note), encoding="utf-8")
        draft.replace(self._place)
        self._saved = time.monotonic()

    def close(self) -> None:
        """Save and close the file."""
        self.save()
        self._stream.close()

    def _append(self, data: bytes) -> None:
        self._stream.write(data)
        self._bytes += len(data)

    def _known(self) -> tuple[int, int]:
        """How far an earlier export has come: the event and the bytes; (0, 0) where there is none to go on with."""
        try:
            note = json.loads(self._place.read_text(encoding="utf-8"))
            there = self.path.stat().st_size
            mine = note["job"] == self.job.name and note["file"] == self.path.name
            seq, count = int(note["seq"]), int(note["bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, 0
        return (seq, count) if mine and 0 < count <= there and 0 < seq <= self.job.last_seq else (0, 0)
