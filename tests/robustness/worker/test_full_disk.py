# SPDX-License-Identifier: Apache-2.0
"""A disk that is really full: the task ends with a reason, and its outcome gets the space that was kept for it."""

import shutil
import subprocess
import sys

import pytest

_START = """
import sys, threading
from pathlib import Path
from finetree_api.trainer.v1 import event_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.process import outcome
from finetree_worker.errors import StorageError
from finetree_worker.events.reporter import JournalReporter
from finetree_data.exchange.journal import FILE_NAME, read
from finetree_worker.events.journal import Journal

folder = Path(sys.argv[1])
journal = Journal(folder)
stands, go_on = threading.Event(), threading.Event()
def stop_here():
    stands.set()
    go_on.wait()
reporter = JournalReporter(journal, attempt=1, on_written=stop_here, on_phase=lambda phase: None)

def emit():
    reporter.emit(event_pb2.LogLine(logger="test", text="x" * 1000))

def fill(size):
    with (folder / "other").open("ab") as stream:  # somebody else fills the disk too
        stream.write(b"x" * size)
"""

_SLOWLY = """
go_on.set()
try:
    while True:
        emit()
        fill(1000)
except (StorageError, OSError) as error:
    written = reporter.finish(outcome.failed(error))
"""

_ALL_AT_ONCE = """
emit()  # the writer's thread stops behind it, until told to go on
stands.wait()
try:
    while True:
        fill(1000)
except OSError as error:
    full = error
for number in range(2000):
    emit()  # more than the reserve holds
go_on.set()
written = reporter.finish(outcome.failed(full))
"""

_END = """
journal.close()
with (folder / FILE_NAME).open("rb") as stream:
    found = [record.event for record in read(stream)]
assert [event.worker_seq for event in found] == list(range(1, len(found) + 1))
print(written, len(found) > 100, worker_pb2.OutcomeKind.Name(found[-1].outcome.kind), found[-1].outcome.error.message)
"""


def in_small_disk(folder, command):
    """Run in a mount namespace of its own, where `folder` is a disk of 1 MiB."""
    mount = 'mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"'
    everything = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", str(folder), *command]
    return subprocess.run(everything, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def disk(tmp_path):
    if shutil.which("unshare") is None or in_small_disk(tmp_path, ["true"]).returncode != 0:
        pytest.skip("needs user and mount namespaces")
    return tmp_path


@pytest.mark.parametrize("course", [_SLOWLY, _ALL_AT_ONCE], ids=["slowly", "with thousands of events waiting"])
def test_the_outcome_of_a_task_that_filled_the_disk_is_written(disk, course):
    done = in_small_disk(disk, [sys.executable, "-c", _START + course + _END, str(disk)])
    assert done.stdout.startswith("True True OUTCOME_KIND_FAILED The disk is full"), done.stderr
