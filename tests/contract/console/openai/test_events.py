# SPDX-License-Identifier: Apache-2.0
"""Events: a list that pages backwards without gap or repeat, and a stream that goes on after any event."""

import dataclasses
import json
import threading

import httpx2
import openai
import pytest
from finetree_console.openai.jobs import events as module

MODEL = "smollm2-135m-instruct"
OWN = {"lora": {"rank": 4}, "training": {"learning_rate": 1e-4}}


@pytest.fixture
def held(suite):
    """A script that stops in the middle of a job."""
    usual = suite.trainer.script
    suite.trainer.script = dataclasses.replace(usual, hold_at=8)
    yield
    suite.trainer.script = usual


def create(client, file):
    return client.fine_tuning.jobs.create(model=MODEL, training_file=file, extra_body={"finetree": OWN})


def name_of(job):
    return f"projects/default/jobs/{job.id.removeprefix('ftjob-')}"


def frames(lines):
    """(id, event, data) of each frame; comments are left out."""
    found, frame = [], {}
    for line in lines:
        if not line:
            if frame:
                found.append((frame.get("id"), frame.get("event"), frame["data"]))
            frame = {}
        elif not line.startswith(":"):
            key, _, value = line.partition(": ")
            frame[key] = value
    return found


def follow(address, job, *, last_id=None, stop_after=None):
    headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
    lines = []
    with (
        httpx2.Client(timeout=30) as http,
        http.stream("GET", f"http://{address}/v1/fine_tuning/jobs/{job.id}/events", headers=headers) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            lines.append(line)
            if stop_after is not None and len(frames(lines)) == stop_after:
                break
    return frames(lines)


def test_pages_hold_every_event_once_newest_first(client, training_file):
    job = create(client, training_file)
    for limit in (1, 7, 500):
        ids = [event.id for event in client.fine_tuning.jobs.list_events(job.id, limit=limit)]
        assert ids == [f"ftevt-{seq:012d}" for seq in range(len(ids), 0, -1)]
        assert len(ids) > 10
    assert client.fine_tuning.jobs.list_events(job.id, after=ids[-1]).data == []


def test_events_that_arrive_between_two_pages_make_neither_gap_nor_repeat(client, suite, held, training_file):
    job = create(client, training_file)
    first = client.fine_tuning.jobs.list_events(job.id, limit=3)
    suite.trainer.advance(name_of(job), 4)
    rest = [event.id for event in client.fine_tuning.jobs.list_events(job.id, limit=3, after=first.data[-1].id)]
    assert [event.id for event in first.data] + rest == [f"ftevt-{seq:012d}" for seq in range(8, 0, -1)]
    assert client.fine_tuning.jobs.list_events(job.id, limit=1).data[0].id == "ftevt-000000000012"


def test_an_event_carries_the_typed_payload(client, training_file):
    events = list(client.fine_tuning.jobs.list_events(create(client, training_file).id, limit=100))
    steps = [event for event in events if event.type == "metrics" and "train_loss" in event.data]
    assert steps[-1].data["step"] == 1
    assert steps[-1].data["train_loss"] == steps[-1].data["step_metrics"]["loss"]
    assert {event.level for event in events} <= {"info", "warn", "error"}
    assert events[0].data["kind"] == "EVENT_KIND_TERMINAL"
    assert [event.data["seq"] for event in events] == list(range(len(events), 0, -1))


def test_a_stream_has_all_events_in_order_and_an_end(address, client, training_file):
    job = create(client, training_file)
    found = follow(address, job)
    assert found[-1] == (None, None, "[DONE]")
    ids = [each[0] for each in found[:-1]]
    assert ids == [f"ftevt-{seq:012d}" for seq in range(1, len(ids) + 1)]
    listed = {event.id: event.to_dict() for event in client.fine_tuning.jobs.list_events(job.id, limit=100)}
    assert {json.loads(data)["id"]: json.loads(data) for _, _, data in found[:-1]} == listed


def test_a_stream_that_was_cut_goes_on_after_the_last_event(address, client, suite, held, training_file):
    job = create(client, training_file)
    first = follow(address, job, stop_after=5)
    suite.trainer.advance(name_of(job))
    rest = follow(address, job, last_id=first[-1][0])
    ids = [each[0] for each in [*first, *rest[:-1]]]
    assert ids == [f"ftevt-{seq:012d}" for seq in range(1, len(ids) + 1)]


def test_behind_the_last_event_of_an_ended_job_there_is_only_the_end(address, client, training_file):
    job = create(client, training_file)
    last = client.fine_tuning.jobs.list_events(job.id, limit=1).data[0]
    assert follow(address, job, last_id=last.id) == [(None, None, "[DONE]")]


@pytest.mark.usefixtures("held")
def test_a_stream_is_live_and_says_so_in_silence(address, client, suite, training_file, monkeypatch):
    monkeypatch.setattr(module, "SILENCE", 0.2)
    job = create(client, training_file)
    arrived, comments, seen = threading.Event(), threading.Event(), []

    def read() -> None:
        headers = {"Accept": "text/event-stream"}
        url = f"http://{address}/v1/fine_tuning/jobs/{job.id}/events"
        with httpx2.Client(timeout=30) as http, http.stream("GET", url, headers=headers) as answer:
            for line in answer.iter_lines():
                seen.append(line)
                if line.startswith(":"):
                    comments.set()
                if line == "id: ftevt-000000000008":
                    arrived.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert arrived.wait(60)
    assert comments.wait(60)
    suite.trainer.advance(name_of(job))
    reader.join(60)
    assert not reader.is_alive()
    assert "data: [DONE]" in seen


def test_a_place_that_a_stream_cannot_go_on_from_is_refused(http, client, training_file):
    job = create(client, training_file)
    for last, code in (("ftevt-999999999999", "FUTURE_SEQ"), ("12", "CURSOR_INVALID")):
        headers = {"Accept": "text/event-stream", "Last-Event-ID": last}
        answer = http.get(f"/v1/fine_tuning/jobs/{job.id}/events", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


def test_a_list_is_refused_by_the_field(client, training_file):
    job = create(client, training_file)
    for query, param in (({"limit": 0}, "limit"), ({"limit": 501}, "limit"), ({"after": "first"}, "after")):
        with pytest.raises(openai.BadRequestError) as caught:
            client.fine_tuning.jobs.list_events(job.id, **query)
        assert caught.value.param == param
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.list_events("ftjob-0199")
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.checkpoints.list("ftjob-0199")
