# SPDX-License-Identifier: Apache-2.0
"""How far the sinks are, in a file for Prometheus: node_exporter's textfile collector reads `*.prom` of a folder."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from finetree_cli.errors import BadInput
from finetree_cli.sinks.cursors import Cursors

FILE = "sinks.prom"
"""Name of the file in the folder of the cursors."""

WRITE_SECONDS = 15.0
"""Time between two writes: Prometheus' usual time between two looks."""

METRICS = (
    ("finetree_sink_behind_events", "gauge", "Events of known jobs that a sink does not have yet."),
    ("finetree_sink_behind_jobs", "gauge", "Jobs of which a sink does not have every event."),
    ("finetree_sink_refused_jobs", "gauge", "Jobs whose next event the target refuses."),
    ("finetree_sink_failures", "gauge", "Failures in a row of a target as a whole; 0 while it answers."),
    ("finetree_sink_lost_events_total", "counter", "Events that were no longer kept, or were given up."),
    ("finetree_sink_delivered_timestamp_seconds", "gauge", "When a sink last confirmed something, seconds since 1970."),
    ("finetree_sink_written_timestamp_seconds", "gauge", "When this file was written, seconds since 1970."),
)
"""Name, type and meaning of each; all but the last have the label `sink`, its name in the operator's file."""


def render(cursors: Cursors, names: Sequence[str]) -> str:
    """The file's text."""
    values: dict[str, dict[str, float]] = {name: {} for name, _, _ in METRICS}
    for sink in names:
        pending, health = cursors.pending(sink), cursors.health(sink)
        behind = [cursor.last_seq - cursor.seq for cursor in pending if cursor.last_seq > cursor.seq]
        label = f'{{sink="{_escaped(sink)}"}}'
        values["finetree_sink_behind_events"][label] = sum(behind)
        values["finetree_sink_behind_jobs"][label] = len(behind)
        values["finetree_sink_refused_jobs"][label] = sum(bool(cursor.error) for cursor in pending)
        values["finetree_sink_failures"][label] = health.failures
        values["finetree_sink_lost_events_total"][label] = cursors.lost(sink)
        values["finetree_sink_delivered_timestamp_seconds"][label] = health.delivered_time
    values["finetree_sink_written_timestamp_seconds"][""] = time.time()
    lines: list[str] = []
    for name, kind, text in METRICS:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{label} {value!r}" for label, value in values[name].items()]
    return "\n".join(lines) + "\n"


def write(path: Path, cursors: Cursors, names: Sequence[str]) -> None:
    """Put the file in place as a whole: whoever reads it never sees half of it. Raises OSError."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        scratch.write_text(render(cursors, names), encoding="utf-8")
        scratch.chmod(0o644)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_first(path: Path, cursors: Cursors, names: Sequence[str]) -> None:
    """Write the file once, before anything is delivered. Raises BadInput METRICS_FILE_UNUSABLE."""
    try:
        write(path, cursors, names)
    except OSError as error:
        text = f"cannot write {path.name}: {error.strerror}"
        remedy = "give a file in a folder that can be written, with --metrics-file"
        raise BadInput(text, remedy=remedy, reason="METRICS_FILE_UNUSABLE") from error


def keep_writing(
    path: Path, cursors: Cursors, names: Sequence[str], *, stop: threading.Event, say: Callable[[str], None]
) -> None:
    """Write the file again and again until `stop` is set; a full disk is said once, and stops no delivery."""
    troubled = False
    while not stop.wait(WRITE_SECONDS):
        try:
            write(path, cursors, names)
            troubled = False
        except OSError as error:
            if not troubled:
                say(f"{path.name} cannot be written: {error.strerror}")
            troubled = True


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
