# SPDX-License-Identifier: Apache-2.0
"""A disk that is really full: the task ends with a reason, and its outcome gets the space that was kept for it."""

import shutil
import subprocess
import sys

import pytest

_RUN = """
import sys
from pathlib import Path
from finetree_api.trainer.v1 import worker_pb2
from finetree_worker import events, outcome
from finetree_worker.errors import StorageError
from finetree_worker.reporter import Reporter
from finetree_worker.segment import FILE_NAME, Segment, read
from finetree_worker.translate import LogLine, Place, Translator

folder = Path(sys.argv[1])
segment = Segment(folder)
translator = Translator(worker_pb2.Task(job="j", attempt=1), Place("here", {}))
reporter = Reporter(segment, translator, on_written=lambda: None, on_phase=lambda phase: None)
try:
    while True:
        reporter.emit(LogLine(events.Level.INFO, "test", "x" * 1000))
        (folder / "other").open("ab").write(b"x" * 1000)  # somebody else fills the disk too
except (StorageError, OSError) as error:
    written = reporter.finish(outcome.failed(error))
segment.close()
with (folder / FILE_NAME).open("rb") as stream:
    found = [worker_pb2.WorkerEvent.FromString(record.body) for record in read(stream)]
assert [event.worker_seq for event in found] == list(range(1, len(found) + 1))
print(written, len(found) > 100, worker_pb2.OutcomeKind.Name(found[-1].outcome.kind), found[-1].outcome.error.message)
"""


def in_small_disk(folder, command):
    """Run in a mount namespace of its own, where `folder` is a disk of 1 MiB."""
    mount = 'mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"'
    everything = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", str(folder), *command]
    return subprocess.run(everything, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def disk(tmp_path):
    if shutil.which("unshare") is None or in_small_disk(tmp_path, ["true"]).returncode != 0:
        pytest.skip("needs user and mount namespaces")
    return tmp_path


def test_the_outcome_of_a_task_that_filled_the_disk_is_written(disk):
    done = in_small_disk(disk, [sys.executable, "-c", _RUN, str(disk)])
    assert done.stdout.startswith("True True OUTCOME_KIND_FAILED The disk is full"), done.stderr
