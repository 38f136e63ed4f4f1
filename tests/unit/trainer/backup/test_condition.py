# SPDX-License-Identifier: Apache-2.0
"""What is said of a folder that is only read."""

import shutil

from finetree_trainer.backup.condition import condition_of
from finetree_trainer.store import schema


def test_a_whole_folder_is_left_as_it_was(data):
    before = {path: path.stat().st_mtime_ns for path in data.root.rglob("*")}
    found = condition_of(data.root)
    assert (found["database"], found["torn"], found["missing_count"], found["drafts"]) == ("ok", [], 0, 0)
    assert (found["jobs"], found["live_jobs"], found["in_use"]) == (2, 1, False)
    assert {path: path.stat().st_mtime_ns for path in data.root.rglob("*")} == before


def test_gaps_missing_files_and_drafts_of_ended_jobs_are_named(data):
    data.insert((schema.event_blocks, {"job_uid": "runs", "first_seq": 5, "last_seq": 6, "payload": b"x"}))
    data.write("jobs/ended/checkpoints/.step-9.1.tmp/weights.bin", b"half")
    shutil.rmtree(data.layout.job("runs"))
    found = condition_of(data.root)
    assert found["torn"] == ["runs"]
    assert found["missing"] == ["jobs/runs"]
    assert (found["drafts"], found["draft_bytes"]) == (1, 4)


def test_pages_that_contradict_each_other_are_found(data):
    with data.layout.database.open("r+b") as stream:
        stream.seek(8192)
        stream.write(b"\xff" * 4096)
    assert condition_of(data.root)["database"] != "ok"
