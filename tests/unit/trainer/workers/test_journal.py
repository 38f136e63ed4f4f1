# SPDX-License-Identifier: Apache-2.0
import struct
import zlib

import pytest
from finetree_api.trainer.v1 import event_pb2, worker_pb2
from finetree_trainer.workers import journal


def record(number):
    event = event_pb2.JobEvent(log_line=event_pb2.LogLine(text=f"line {number}"))
    body = worker_pb2.WorkerEvent(worker_seq=number, event=event).SerializeToString()
    return struct.pack("<II", len(body), zlib.crc32(body)) + body


def numbers(folder, after=0):
    return [event.worker_seq for event in journal.read(folder, after)]


def test_events_behind_a_number_are_read(tmp_path):
    (tmp_path / journal.FILE_NAME).write_bytes(b"".join(record(n) for n in range(1, 6)))
    assert numbers(tmp_path) == [1, 2, 3, 4, 5]
    assert numbers(tmp_path, after=3) == [4, 5]
    assert numbers(tmp_path / "nothing") == []


@pytest.mark.parametrize("cut", range(1, len(record(3))))
def test_the_record_that_the_writer_was_killed_in_ends_the_segment(tmp_path, cut):
    whole = record(1) + record(2)
    (tmp_path / journal.FILE_NAME).write_bytes(whole + record(3)[:cut])
    assert numbers(tmp_path) == [1, 2]


@pytest.mark.parametrize("damage", [0, 4, 10])
def test_nothing_behind_a_damaged_record_is_believed(tmp_path, damage):
    broken = bytearray(record(2))
    broken[damage] ^= 0xFF
    (tmp_path / journal.FILE_NAME).write_bytes(record(1) + bytes(broken) + record(3))
    assert numbers(tmp_path) == [1]


def test_the_worker_writes_what_is_read_here(tmp_path):
    segment = pytest.importorskip("finetree_worker.events.journal")
    assert segment.FILE_NAME == journal.FILE_NAME
    assert segment.MAX_RECORD_BYTES == journal.MAX_RECORD_BYTES
