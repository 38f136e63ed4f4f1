# SPDX-License-Identifier: Apache-2.0
"""An export that is interrupted anywhere goes on, and ends with the bytes of one that was not."""

import csv
import io
import json

import pytest
from finetree.exports.target import FORMATS, ExportFile
from finetree_api.trainer.v1 import event_pb2, job_pb2


def job(uid: str = "7") -> job_pb2.Job:
    made = job_pb2.Job(name=f"projects/default/jobs/{uid}", uid=uid, last_seq=50)
    made.create_time.FromSeconds(1_790_000_000)
    return made


def events() -> list[event_pb2.JobEvent]:
    found = [event_pb2.JobEvent(seq=2, attempt=1, attempt_started=event_pb2.AttemptStarted())]
    for seq in range(3, 40):
        metrics = event_pb2.StepMetrics(step=seq - 2, loss=1 / seq, epoch=0.1 * seq, processed_tokens=7 * seq)
        found.append(event_pb2.JobEvent(seq=seq, attempt=1, step_metrics=metrics))
    last = event_pb2.EvalMetrics(step=37, loss=0.5, loss_standard_error=0.01, rows=9)
    return [*found, event_pb2.JobEvent(seq=41, attempt=1, eval_metrics=last)]


def whole(folder, kind) -> bytes:
    target = ExportFile(folder, job(), kind)
    target.write(events())
    target.close()
    return target.path.read_bytes()


@pytest.mark.parametrize("kind", FORMATS)
def test_after_any_interruption_the_bytes_are_those_of_an_export_at_once(tmp_path, kind):
    wanted = whole(tmp_path / "whole", kind)
    for saved in (0, 1, 5, 20):
        for lost in (0, 1, 7):
            folder = tmp_path / f"{saved}-{lost}"
            target = ExportFile(folder, job(), kind)
            target.write(events()[:saved])
            target.save()
            # Killed: what was written since then is in the file, and half of a row, and nothing says so.
            for event in events()[saved : saved + lost]:
                target._append(target._made.part(event))
            target._append(b"half")
            target._stream.close()
            again = ExportFile(folder, job(), kind)
            assert again.seq == (events()[saved - 1].seq if saved else 0)
            again.write(events())
            again.close()
            assert again.path.read_bytes() == wanted, (saved, lost)


@pytest.mark.parametrize("kind", FORMATS)
def test_another_job_s_note_or_a_shortened_file_begins_anew(tmp_path, kind):
    wanted = whole(tmp_path, kind)
    path = next(path for path in (tmp_path / "7").iterdir() if not path.name.startswith("."))
    path.write_bytes(wanted[:10])
    assert whole(tmp_path, kind) == wanted
    note = tmp_path / "7" / f".{kind}.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"job": "projects/default/jobs/8"}))
    assert whole(tmp_path, kind) == wanted
    note.write_text("no JSON")
    assert whole(tmp_path, kind) == wanted


def test_the_table_has_what_the_log_has(tmp_path):
    rows = list(csv.DictReader(io.StringIO(whole(tmp_path, "csv").decode())))
    assert [row["row"] for row in rows] == ["attempt", *["step"] * 37, "evaluation"]
    first, last = rows[1], rows[-1]
    assert (first["seq"], first["step"], float(first["loss"]), first["processed_tokens"]) == ("3", "1", 1 / 3, "21")
    assert (first["grad_norm"], first["eval_loss"]) == ("", "")
    assert (last["step"], last["eval_loss"], last["eval_loss_standard_error"], last["loss"]) == (
        "37",
        "0.5",
        "0.01",
        "",
    )
