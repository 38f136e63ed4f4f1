# SPDX-License-Identifier: Apache-2.0
"""TensorBoard's event files in a folder, as `finetree jobs export --format tensorboard` writes them."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetree.exports.target import KINDS, ExportFile
from finetree_api.trainer.v1 import event_pb2, job_pb2

from finetree_cli.sinks.delivery import Comparison, Delivered, UnreachableError


@dataclass(frozen=True, slots=True)
class TensorboardFiles:
    """An event file for each job, in a folder that has the name of its uid."""

    folder: Path
    kinds: Sequence[str] = KINDS
    whole: bool = False

    def reached(self, job: job_pb2.Job, seq: int) -> int:
        """What stands beside the file: it may have been deleted, or be that of an export by hand."""
        with self._file(job) as target:
            return min(target.seq, seq)

    def deliver(self, job: job_pb2.Job, events: Sequence[event_pb2.JobEvent], remote: str) -> Iterator[Delivered]:
        """Append the events that are not in the file."""
        del remote
        with self._file(job) as target:
            target.write(events)
            target.save()
        yield Delivered(events[-1].seq, str(target.path.name))

    def compare(self, job: job_pb2.Job, events: Sequence[event_pb2.JobEvent], remote: str) -> Comparison | None:
        """Compare the file's bytes with those that the log makes: the same events always make the same bytes."""
        del remote
        from finetree.exports import tensorboard

        with self._file(job) as target:
            held = target.path.read_bytes()
        parts = [part for event in events if (part := tensorboard.part(event))]
        if held == b"".join([tensorboard.beginning(job), *parts]):
            return Comparison(len(parts), 0, 0)
        missing = sum(part not in held for part in parts)
        return Comparison(len(parts), missing, int(not missing))

    @contextlib.contextmanager
    def _file(self, job: job_pb2.Job) -> Iterator[ExportFile]:
        try:
            with contextlib.closing(ExportFile(self.folder, job, "tensorboard")) as target:
                yield target
        except OSError as error:
            raise UnreachableError(f"cannot be written: {error.strerror or error}") from error
