# SPDX-License-Identifier: Apache-2.0
"""The journal's records: what is written is read back, and the first that is cut or damaged ends it."""

import struct
import zlib

import pytest
from finetree_api.trainer.v1 import event_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.exchange import journal


def record(number):
    event = event_pb2.JobEvent(log_line=event_pb2.LogLine(text=f"line {number}"))
    return journal.encode(worker_pb2.WorkerEvent(worker_seq=number, event=event))


def numbers(folder, after=0):
    return [event.worker_seq for event in journal.events_after(folder, after)]


def test_a_record_is_length_checksum_and_event():
    length, checksum = struct.unpack("<II", record(7)[:8])
    body = record(7)[8:]
    assert (length, checksum) == (len(body), zlib.crc32(body))
    assert worker_pb2.WorkerEvent.FromString(body).worker_seq == 7


def test_events_behind_a_number_are_read(tmp_path):
    (tmp_path / journal.FILE_NAME).write_bytes(b"".join(record(n) for n in range(1, 6)))
    assert numbers(tmp_path) == [1, 2, 3, 4, 5]
    assert numbers(tmp_path, after=3) == [4, 5]
    assert numbers(tmp_path / "nothing") == []


def test_reading_goes_on_at_a_record(tmp_path):
    path = tmp_path / journal.FILE_NAME
    path.write_bytes(b"".join(record(n) for n in range(1, 4)))
    with path.open("rb") as stream:
        first = next(journal.read(stream))
        assert (first.event.worker_seq, first.size, first.end) == (1, len(record(1)) - 8, len(record(1)))
        assert [each.event.worker_seq for each in journal.read(stream, first.end)] == [2, 3]


@pytest.mark.parametrize("cut", range(1, len(record(3))))
def test_the_record_that_the_writer_was_killed_in_ends_the_journal(tmp_path, cut):
    (tmp_path / journal.FILE_NAME).write_bytes(record(1) + record(2) + record(3)[:cut])
    assert numbers(tmp_path) == [1, 2]


@pytest.mark.parametrize("damage", [0, 2, 4, 5, 10, 11])
def test_nothing_behind_a_damaged_record_is_believed(tmp_path, damage):
    broken = bytearray(record(2))
    broken[damage] ^= 0x40
    (tmp_path / journal.FILE_NAME).write_bytes(record(1) + bytes(broken) + record(3))
    assert numbers(tmp_path) == [1]


@pytest.mark.parametrize("tail", [b"\0" * 64, struct.pack("<II", 2**31, 0) + b"x" * 64])
def test_zeros_and_impossible_lengths_are_no_records(tmp_path, tail):
    (tmp_path / journal.FILE_NAME).write_bytes(record(1) + record(2) + tail)
    assert numbers(tmp_path) == [1, 2]


def test_a_body_that_is_no_event_ends_the_journal(tmp_path):
    body = b"\xff\xff\xff"
    (tmp_path / journal.FILE_NAME).write_bytes(record(1) + struct.pack("<II", 3, zlib.crc32(body)) + body + record(2))
    assert numbers(tmp_path) == [1]
