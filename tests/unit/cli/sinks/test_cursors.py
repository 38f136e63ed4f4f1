# SPDX-License-Identifier: Apache-2.0
"""Cursors: what was confirmed stays, in another process too, and one process at a time delivers."""

import pytest
from finetree_cli.errors import BadInput, NotAvailable
from finetree_cli.sinks.cursors import FILE, Cursors


@pytest.fixture
def cursors(tmp_path):
    with Cursors(tmp_path / "state") as made:
        made.register("board", [("b", "projects/p/jobs/b", 0, False), ("a", "projects/p/jobs/a", 0, False)])
        yield made


def test_what_was_confirmed_is_there_after_a_restart(cursors, tmp_path):
    cursors.advance(cursors.get("board", "a"), 7, remote="run-1")
    cursors.close()
    with Cursors(tmp_path / "state") as again:
        found = again.get("board", "projects/p/jobs/a")
        assert (found.seq, found.remote, found.done) == (7, "run-1", False)
        assert [cursor.job for cursor in again.pending("board")] == ["a", "b"]


def test_a_cursor_never_goes_back(cursors):
    cursors.advance(cursors.get("board", "a"), 7, remote="run-1")
    cursors.advance(cursors.get("board", "a"), 3)
    cursors.register("board", [("a", "projects/p/jobs/a", 0, False)])
    assert (cursors.get("board", "a").seq, cursors.get("board", "a").remote) == (7, "run-1")


def test_a_confirmation_ends_what_was_wrong(cursors):
    cursors.refused(cursors.get("board", "a"), "answered 400", 5.0)
    cursors.unreachable("board", "does not answer", 9.0)
    assert (cursors.get("board", "a").failures, cursors.health("board").failures) == (1, 1)
    cursors.advance(cursors.get("board", "a"), 1)
    assert (cursors.get("board", "a").error, cursors.health("board").error) == ("", "")


def test_lost_events_are_counted(cursors):
    cursors.skip(cursors.get("board", "a"), 5, lost=5)
    cursors.skip(cursors.get("board", "b"), 2, lost=2)
    assert cursors.lost("board") == 7
    assert cursors.lost("other") == 0


def test_a_second_process_is_refused_and_may_look(cursors, tmp_path):
    with pytest.raises(NotAvailable) as caught:
        Cursors(tmp_path / "state")
    assert caught.value.reason == "SINKS_RUNNING"
    with Cursors(tmp_path / "state", read_only=True) as looking:
        assert len(looking.pending("board")) == 2


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / FILE).write_bytes(b"not a database" * 400)
    with pytest.raises(NotAvailable) as caught:
        Cursors(tmp_path)
    assert caught.value.reason == "SINKS_DAMAGED"
    assert str(tmp_path) not in caught.value.message


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput) as caught:
        Cursors(tmp_path / "file" / "state")
    assert caught.value.reason == "SINK_FOLDER_UNUSABLE"
