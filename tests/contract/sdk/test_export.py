# SPDX-License-Identifier: Apache-2.0
"""Metrics of a job in files: once it has ended, while it runs, through breaks, and again."""

import csv
import threading

import finetree
import pytest
from finetree.testing import Script


def steps_of(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return [(int(row["seq"]), int(row["step"])) for row in csv.DictReader(stream) if row["row"] == "step"]


def test_an_ended_job_is_exported_and_again_with_the_same_bytes(do, suite, spec, tmp_path):
    suite.trainer.script = Script(steps=12)
    job = do(do.client().create_job(spec))
    for kind in ("csv", "tensorboard"):
        first = do(job.export_metrics(tmp_path / "one", kind))
        assert first.parent == tmp_path / "one" / job.uid
        once = first.read_bytes()
        assert do(job.export_metrics(tmp_path / "one", kind)).read_bytes() == once
        assert do(job.export_metrics(tmp_path / "two", kind, follow=True)).read_bytes() == once
    assert [step for _, step in steps_of(tmp_path / "one" / job.uid / "metrics.csv")] == list(range(1, 13))


def test_a_running_job_is_followed_through_breaks_and_an_interruption(do, suite, spec, tmp_path):
    suite.trainer.script = Script(steps=12, hold_at=8)
    job = do(do.client().create_job(spec))
    part = do(job.export_metrics(tmp_path))
    assert 0 < len(steps_of(part)) < 12
    with pytest.raises(finetree.FinetreeTimeout):
        do(job.export_metrics(tmp_path, follow=True, timeout=0.3))
    suite.trainer.disconnect_after(10, 12)
    timer = threading.Timer(0.3, suite.trainer.advance, [job.name])
    timer.start()
    path = do(job.export_metrics(tmp_path, follow=True, timeout=60))
    timer.join()
    assert [step for _, step in steps_of(path)] == list(range(1, 13))
    assert path.read_bytes() == do(job.export_metrics(tmp_path / "whole")).read_bytes()


def test_an_unknown_format_and_removed_events_are_refused(do, suite, spec, tmp_path):
    suite.trainer.script = Script(steps=12, hold_at=8)
    job = do(do.client().create_job(spec))
    with pytest.raises(finetree.InvalidArgument, match="csv, tensorboard"):
        do(job.export_metrics(tmp_path, "xlsx"))
    path = do(job.export_metrics(tmp_path))
    before = path.read_bytes()
    suite.trainer.advance(job.name)
    suite.trainer.expire_events(job.name, before=12)
    with pytest.raises(finetree.OutOfRange) as caught:
        do(job.export_metrics(tmp_path))
    assert caught.value.reason == "EVENTS_EXPIRED"
    assert path.read_bytes() == before
