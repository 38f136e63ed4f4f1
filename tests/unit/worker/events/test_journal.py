# SPDX-License-Identifier: Apache-2.0
"""The journal: what is appended is read back, and a torn or damaged tail ends it."""

import subprocess
import sys

from finetree_api.trainer.v1 import event_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.exchange.journal import FILE_NAME, read
from finetree_worker.events.journal import OUTCOME_BYTES, RESERVE_NAME, Journal


def line(text):
    return worker_pb2.WorkerEvent(event=event_pb2.JobEvent(log_line=event_pb2.LogLine(text=text)))


def filled(folder, count):
    journal = Journal(folder)
    for number in range(1, count + 1):
        journal.append([line(f"line {number}")], durable=False)
    return journal


def texts(folder):
    with (folder / FILE_NAME).open("rb") as stream:
        bodies = [record.event for record in read(stream)]
    assert [body.worker_seq for body in bodies] == list(range(1, len(bodies) + 1))
    return [body.event.log_line.text for body in bodies]


def test_events_are_numbered_and_read_back(tmp_path):
    journal = filled(tmp_path, 3)
    journal.append([line("line 4"), line("line 5")], durable=True)
    journal.close()
    assert texts(tmp_path) == [f"line {n}" for n in range(1, 6)]


def test_a_reopened_journal_goes_on_behind_the_newest_event(tmp_path):
    filled(tmp_path, 3).close()
    journal = Journal(tmp_path)
    assert journal.last_seq == 3
    journal.append([line("line 4")], durable=False)
    journal.close()
    assert texts(tmp_path) == [f"line {n}" for n in range(1, 5)]


def test_a_cut_at_every_byte_leaves_the_whole_records_before_it(tmp_path):
    filled(tmp_path, 3).close()
    whole = (tmp_path / FILE_NAME).read_bytes()
    size = len(whole) // 3
    assert len(whole) == 3 * size, "the records are of one length"
    for cut in range(len(whole)):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / FILE_NAME).write_bytes(whole[:cut])
        journal = Journal(folder)
        assert (journal.last_seq, (folder / FILE_NAME).stat().st_size) == (cut // size, cut // size * size)
        journal.append([line("after")], durable=False)
        journal.close()
        assert texts(folder) == [*(f"line {n}" for n in range(1, cut // size + 1)), "after"]


def test_the_place_behind_an_event_is_found(tmp_path):
    journal = filled(tmp_path, 20)
    for seq in (0, 1, 7, 19):
        assert journal.batch(journal.after(seq), 1)[0].event.worker_seq == seq + 1
    assert journal.batch(journal.after(20), 1) == []
    journal.close()


def test_batches_are_bounded_and_meet(tmp_path):
    journal = filled(tmp_path, 100)
    seen, offset = [], 0
    while batch := journal.batch(offset, 200):
        assert sum(record.size for record in batch[:-1]) < 200
        seen += [record.event.worker_seq for record in batch]
        offset = batch[-1].end
    assert seen == list(range(1, 101))
    journal.close()


def test_an_event_larger_than_a_batch_still_travels(tmp_path):
    journal = Journal(tmp_path)
    journal.append([line("x" * 300_000), line("small")], durable=False)
    assert [record.event.worker_seq for record in journal.batch(0, 65_536)] == [1]
    journal.close()


_FILL = """
import resource, sys
from pathlib import Path
from finetree_api.trainer.v1 import event_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.events.journal import Journal
journal = Journal(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
event = worker_pb2.WorkerEvent(event=event_pb2.JobEvent(log_line=event_pb2.LogLine(text="x" * 1200)))
stored = 0
try:
    for _ in range(10):
        journal.append([event], durable=False)
        stored += 1
except OSError:
    print(stored, journal.last_seq)
"""


def test_a_write_that_does_not_fit_leaves_no_half_record(tmp_path):
    done = subprocess.run([sys.executable, "-c", _FILL, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "3"], done.stderr
    assert len(texts(tmp_path)) == 3


def test_the_reserve_takes_real_space_and_goes_at_the_end(tmp_path):
    journal = Journal(tmp_path)
    assert (tmp_path / RESERVE_NAME).stat().st_blocks * 512 >= 256 * 1024
    journal.release_reserve(keep=OUTCOME_BYTES)
    assert (tmp_path / RESERVE_NAME).stat().st_size == OUTCOME_BYTES
    journal.release_reserve()
    journal.close()
    assert not (tmp_path / RESERVE_NAME).exists()
