# SPDX-License-Identifier: Apache-2.0
"""The window over a journal: what is sent, sent again, and held back."""

import pytest
from finetree_api.trainer.v1 import event_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.attach.identity import RefusedError
from finetree_worker.attach.window import IN_FLIGHT_BYTES, Window
from finetree_worker.events.journal import Journal


@pytest.fixture
def journal(tmp_path):
    opened = Journal(tmp_path)
    opened.append([line() for _ in range(10)], durable=False)
    yield opened
    opened.close()


def line(size=10):
    return worker_pb2.WorkerEvent(event=event_pb2.JobEvent(log_line=event_pb2.LogLine(text="x" * size)))


def sent(window):
    numbers = []
    while (batch := window.next_batch()) is not None:
        numbers += [event.worker_seq for event in batch.events]
    return numbers


def test_it_begins_behind_what_the_service_has(journal):
    assert sent(Window(journal, 4)) == [5, 6, 7, 8, 9, 10]


def test_after_a_break_everything_unacknowledged_is_sent_again_in_order(journal):
    window = Window(journal, 0)
    assert sent(window) == list(range(1, 11))
    window.acknowledge(3)
    window.resume(3)
    assert sent(window) == [4, 5, 6, 7, 8, 9, 10]
    window.resume(10)
    assert sent(window) == []
    assert window.settled


def test_a_service_restored_from_a_backup_gets_the_older_events_again(journal):
    window = Window(journal, 0)
    sent(window)
    window.acknowledge(10)
    window.resume(2)
    assert sent(window) == list(range(3, 11))
    assert not window.settled


def test_new_events_follow(journal):
    window = Window(journal, 10)
    assert window.unsent_bytes == 0
    journal.append([line()], durable=False)
    assert window.unsent_bytes > 0
    assert sent(window) == [11]


def test_too_much_on_its_way_waits_for_the_service(journal):
    journal.append([line(1_000_000) for _ in range(10)], durable=False)
    window = Window(journal, 0)
    first = sent(window)
    assert first[-1] < 20
    assert window.next_batch() is None
    window.acknowledge(first[-1])
    rest = sent(window)
    assert [*first, *rest][: len(first) + len(rest)] == list(range(1, len(first) + len(rest) + 1))
    assert IN_FLIGHT_BYTES < 10 * 1_000_000


def test_a_service_that_holds_more_than_the_journal_is_not_written_to(journal):
    with pytest.raises(RefusedError, match="11 events"):
        Window(journal, 11)
