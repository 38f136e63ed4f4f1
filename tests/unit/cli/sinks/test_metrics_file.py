# SPDX-License-Identifier: Apache-2.0
"""How far the sinks are, as node_exporter reads it."""

import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from finetree_cli.errors import BadInput
from finetree_cli.sinks import metrics_file
from finetree_cli.sinks.cursors import Cursors

PAGE = Path(__file__).parents[4] / "docs/metrics.md"


@pytest.fixture
def cursors(tmp_path):
    with Cursors(tmp_path / "state") as made:
        made.register("tracker", [("j1", "projects/p/jobs/j1", 0, False), ("j2", "projects/p/jobs/j2", 0, False)])
        for uid, last in (("j1", 10), ("j2", 5)):
            made.seen(made.get("tracker", uid), last, done=False)
        made.advance(made.get("tracker", "j1"), 4)
        made.skip(made.get("tracker", "j2"), 2, lost=2)
        made.refused(made.get("tracker", "j2"), "422", 0.0)
        made.unreachable("tracker", "503", 0.0)
        yield made


def test_the_numbers_are_those_of_status(cursors):
    text = metrics_file.render(cursors, ["tracker"])
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert found['finetree_sink_behind_events{sink="tracker"}'] == "9"
    assert found['finetree_sink_behind_jobs{sink="tracker"}'] == "2"
    assert found['finetree_sink_refused_jobs{sink="tracker"}'] == "1"
    assert found['finetree_sink_lost_events_total{sink="tracker"}'] == "2"
    assert found['finetree_sink_failures{sink="tracker"}'] == "1"
    assert float(found['finetree_sink_delivered_timestamp_seconds{sink="tracker"}']) > 1e9


def test_a_name_cannot_break_the_form(cursors):
    cursors.register('a"}\n1', [])
    text = metrics_file.render(cursors, ['a"}\n1'])
    assert 'finetree_sink_failures{sink="a\\"}\\n1"} 0' in text.splitlines()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
def test_prometheus_takes_the_file(cursors):
    text = metrics_file.render(cursors, ["tracker", 'a"b'])
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_file_is_whole_or_the_old_one(cursors, tmp_path, monkeypatch):
    path = tmp_path / "sinks.prom"
    metrics_file.write(path, cursors, ["tracker"])
    before = path.read_text()
    monkeypatch.setattr(metrics_file, "render", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space"):
        metrics_file.write(path, cursors, ["tracker"])
    assert path.read_text() == before
    assert [file.name for file in tmp_path.glob("*.prom*")] == ["sinks.prom"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_folder_that_is_not_there_is_refused_before_anything_is_delivered(cursors, tmp_path):
    with pytest.raises(BadInput) as refused:
        metrics_file.write_first(tmp_path / "missing" / "sinks.prom", cursors, ["tracker"])
    assert refused.value.reason == "METRICS_FILE_UNUSABLE"


def test_a_full_disk_is_said_once_and_the_file_written_again_after_it(cursors, tmp_path, monkeypatch):
    said, written, stop = [], [], threading.Event()

    def write(*_: object) -> None:
        written.append(1)
        if len(written) == 4:
            stop.set()
        if len(written) < 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics_file, "write", write)
    monkeypatch.setattr(metrics_file, "WRITE_SECONDS", 0.001)
    metrics_file.keep_writing(tmp_path / "sinks.prom", cursors, ["tracker"], stop=stop, say=said.append)
    assert said == ["sinks.prom cannot be written: No space left on device"]
    assert len(written) == 4


def test_the_page_lists_them():
    rows = PAGE.read_text(encoding="utf-8").partition("\n## Sinks")[2]
    found = re.findall(r"^\| `(\w+)` \| (\w+) \| ?(\w*) \| (.*?) \|", rows, re.MULTILINE)
    labels = {name: "sink" for name, _, _ in metrics_file.METRICS[:-1]}
    assert found == [(name, kind, labels.get(name, ""), text) for name, kind, text in metrics_file.METRICS]
