# SPDX-License-Identifier: Apache-2.0
"""A store in a folder of its own, and rows to put into it; files of weights are importable as `weight_files`."""

import dataclasses
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_trainer.joblog.transaction import Transaction
from finetree_trainer.scheduling.machine.meter import Reading
from finetree_trainer.scheduling.machine.nvml import GpuUse
from finetree_trainer.scheduling.memory import MemoryLedger
from finetree_trainer.store import events, jobs
from finetree_trainer.store.database import Store

_WEIGHT_FILES = Path(__file__).parents[1] / "data/weights/weight_files.py"


class _Finder:
    @staticmethod
    def find_spec(name: str, *_: object) -> ModuleSpec | None:
        return spec_from_file_location(name, _WEIGHT_FILES) if name == "weight_files" else None


sys.meta_path.append(_Finder)


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "trainer.db")
    yield opened
    opened.close()


@pytest.fixture
def new_row():
    def make(uid="j1", **changes) -> jobs.JobRow:  # noqa: ANN003 - any field of the row
        fields = {
            "uid": uid,
            "project": "p",
            "owner": "me",
            "task": job_pb2.TASK_KIND_TRAIN,
            "state": job_pb2.JOB_STATE_UNSPECIFIED,
            "suspended": False,
            "attempt": 0,
            "last_seq": 0,
            "oldest_seq": 1,
            "attempt_started": 0,
            "cancel_requested": 0,
            "create_time": 1,
            "update_time": 1,
            "end_time": 0,
            "dataset_uid": "",
            "evaluation_uid": "",
            "snapshot": b"",
            "record": job_pb2.Job(uid=uid).SerializeToString(),
        }
        return jobs.JobRow(**(fields | changes))

    return make


@pytest.fixture
def create_job(store):
    def create(row) -> None:
        store.submit(lambda connection: jobs.create(connection, row, {"team": "x"})).result()

    return create


@pytest.fixture
def append_lines(store):
    """Append log lines to a job as one block."""

    def append(row, texts, *, now=1000) -> None:
        def work(connection) -> None:
            transaction = Transaction(row, now)
            expected = row.attempt, row.last_seq
            for line in texts:
                transaction.add(event_pb2.JobEvent(log_line=event_pb2.LogLine(text=line)))
            transaction.flush()
            events.append(connection, row, transaction.events, attempt=expected[0], last_seq=expected[1])

        store.submit(work).result()

    return append


class SetMeter:
    """A machine whose memory a test sets."""

    def __init__(self) -> None:
        self.reading = Reading(total=64 << 30, free=64 << 30)

    def set(self, **changes) -> None:  # noqa: ANN003 - any field of the reading
        self.reading = dataclasses.replace(self.reading, **changes)

    def read(self) -> Reading:
        return self.reading


@pytest.fixture
def meter():
    return SetMeter()


@pytest.fixture
def ledger(meter):
    """`ledger(devices, reserve=0)`: their memory, as the meter has it; GPUs are free."""

    def make(devices, *, reserve=0) -> MemoryLedger:
        gpus = {d.id: GpuUse(d.total_bytes, d.total_bytes) for d in devices if d.id != "cpu"}
        meter.set(gpus=gpus)
        return MemoryLedger(meter, devices, reserve=reserve)

    return make
