# SPDX-License-Identifier: Apache-2.0
import threading
import time
import uuid

import pytest
from finetree_runtime import ids
from finetree_runtime.errors import InvalidArgument
from hypothesis import given
from hypothesis import strategies as st


def test_uuid7_carries_version_variant_and_time():
    before = time.time_ns() // 1_000_000
    made = ids.uuid7()
    after = time.time_ns() // 1_000_000
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    # Other tests of this process may have drawn ids faster than the clock's 244 ns ticks, hence the small slack.
    assert before <= made.int >> 80 <= after + 100


def test_uuid7_increases_and_never_repeats_across_threads():
    made = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda own=own: own.extend(ids.uuid7() for _ in range(500))) for own in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(own == sorted(own) for own in made)
    assert len({one for own in made for one in own}) == 2000


def test_uuid7_increases_when_the_clock_goes_back(monkeypatch):
    first = ids.uuid7()
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    assert ids.uuid7() > first


def test_names_are_read_in_full_and_short():
    full = ids.parse_name("projects/p1/jobs/j-1", "jobs")
    assert (full.project, full.collection, full.id, str(full)) == ("p1", "jobs", "j-1", "projects/p1/jobs/j-1")
    assert str(ids.parse_name("j-1", "jobs")) == "projects/default/jobs/j-1"
    assert str(ids.parse_name("j-1", "jobs", project="p2")) == "projects/p2/jobs/j-1"
    assert full.child("checkpoints", 17) == "projects/p1/jobs/j-1/checkpoints/17"


@pytest.mark.parametrize(
    "text",
    [
        *("", "a/b", "../x", "..", "A", "a b", "a\n", "x" * 64),
        *("projects/p/jobs", "projects/p/datasets/x", "projects/p/jobs/x/y", "projects//jobs/x"),
        *("projects/p/jobs/..", "projects/p/jobs/a\n"),
    ],
)
def test_other_names_are_refused(text):
    with pytest.raises(InvalidArgument) as caught:
        ids.parse_name(text, "jobs", field_path="job")
    assert caught.value.reason == "INVALID_NAME"
    assert caught.value.violations[0].field_path == "job"


def test_children_are_read_with_their_parent():
    parent, child = ids.parse_child("projects/p/jobs/j/artifacts/adapter", "jobs", "artifacts")
    assert (str(parent), child) == ("projects/p/jobs/j", "adapter")
    parent, child = ids.parse_child("j/artifacts/adapter", "jobs", "artifacts")
    assert (str(parent), child) == ("projects/default/jobs/j", "adapter")


@pytest.mark.parametrize("text", ["", "adapter", "/artifacts/a", "j/artifacts/", "j/artifacts/..", "j/artifacts/a/b"])
def test_other_children_are_refused(text):
    with pytest.raises(InvalidArgument):
        ids.parse_child(text, "jobs", "artifacts")


def test_parents():
    assert ids.parse_parent("") == "default"
    assert ids.parse_parent("", project="p2") == "p2"
    assert ids.parse_parent("projects/p") == "p"
    for text in ("p", "projects/", "projects/p/jobs", "projects/.."):
        with pytest.raises(InvalidArgument):
            ids.parse_parent(text)


PARTS = st.sampled_from(
    ["projects", "a", "b", "jobs", "artifacts", "checkpoints", "1", "", "A", "..", "projects/a", "jobs/1", "x" * 64]
)


@given(st.lists(PARTS, min_size=1, max_size=7).map("/".join))
def test_the_project_of_a_name_is_the_one_that_every_parser_finds(text):
    """Authorization looks at the beginning of a name alone; a parser that read another project would open that one."""
    parsers = (
        lambda: ids.parse_name(text, "jobs", project="own").project,
        lambda: ids.parse_child(text, "jobs", "artifacts", project="own")[0].project,
        lambda: ids.parse_child(text, "jobs", "checkpoints", project="own")[0].project,
        lambda: ids.parse_parent(text, project="own"),
    )
    for parse in parsers:
        try:
            found = parse()
        except InvalidArgument:
            continue
        assert found == (ids.project_in(text) or "own")
