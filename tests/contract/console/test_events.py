# SPDX-License-Identifier: Apache-2.0
"""A job's events as Server-Sent Events: each number once, over connections that break on either side."""

import json
import random
import socket
import time
import urllib.parse
from datetime import datetime
from typing import Any

import httpx2
import pytest
from finetree.testing import Script

SPEC = {"model": {"name": "tiny"}, "lora": {"rank": 8}, "dataset": {"path": "rows.jsonl"}}
STEPS = 60
ALL = list(range(1, STEPS + 10))
PATH = "/trainer/v1/WatchJob"


def created(http, suite, **script: Any) -> str:
    suite.trainer.script = Script(**{"steps": STEPS, **script})
    return http.post("/trainer/v1/CreateJob", json={"job": {"train": {"spec": SPEC}}}).json()["job"]["name"]


def parsed(text: str) -> tuple[list[dict[str, Any]], str]:
    """Events and last id of a stream, as a browser reads it: what no blank line ends does not count."""
    events, last = [], ""
    for frame in text.split("\n\n")[:-1]:
        fields = dict(line.partition(": ")[::2] for line in frame.splitlines() if not line.startswith(":"))
        last = fields.get("id", last)
        if "data" in fields:
            events.append({"type": fields.get("event", "message"), **json.loads(fields["data"])})
    return events, last


def read(address: str, query: dict[str, Any], *, last_id: str = "", at_most: int = 10**9) -> str:
    """Read the body of a stream until it ends, or cut the connection after some of its bytes."""
    host, _, port = address.partition(":")
    head = f"GET {PATH}?{urllib.parse.urlencode(query)} HTTP/1.0\r\nHost: {address}\r\n"
    head += f"Last-Event-ID: {last_id}\r\n" if last_id else ""
    content = b""
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(f"{head}\r\n".encode())
        while b"\r\n\r\n" not in content or len(content.partition(b"\r\n\r\n")[2]) < at_most:
            piece = connection.recv(min(4096, at_most))
            if not piece:
                break
            content += piece
    return content.partition(b"\r\n\r\n")[2][:at_most].decode()


def seqs(events):
    return [event["seq"] for event in events]


def test_every_event_once_and_the_terminal_last(http, suite):
    response = http.get(PATH, params={"name": created(http, suite)})
    assert response.headers["content-type"] == "text/event-stream"
    events, last = parsed(response.text)
    assert seqs(events) == ALL
    assert events[-1]["kind"] == "EVENT_KIND_TERMINAL"
    assert last
    assert response.text.startswith("retry: 1000\n\n")


@pytest.mark.parametrize("seed", range(5))
def test_each_number_once_over_cut_connections(address, http, suite, seed):
    """A client that knows nothing but ids: it reads a random number of bytes, is cut, and attaches again."""
    name, chance = created(http, suite), random.Random(seed)
    found, last, cuts = [], "", 0
    while not found or found[-1]["kind"] != "EVENT_KIND_TERMINAL":
        text = read(address, {"name": name}, last_id=last, at_most=chance.randint(20, 9000))
        events, reached = parsed(text)
        found += events
        last, cuts = reached or last, cuts + 1
        assert cuts < 2000
    assert seqs(found) == ALL
    assert cuts > 3
    assert http.get(PATH, params={"name": name}, headers={"last-event-id": last}).status_code == 204


def test_each_number_once_while_the_service_breaks_its_streams(http, suite):
    name = created(http, suite)
    suite.trainer.disconnect_after(3, 17, 18, 40)
    suite.trainer.skip_once(25)
    assert seqs(parsed(http.get(PATH, params={"name": name}).text)[0]) == ALL


def test_live_events_and_heartbeats(http, suite):
    name = created(http, suite, hold_at=5)
    with http.stream("GET", PATH, params={"name": name, "heartbeat": "0.1s"}) as response:
        received, beats = "", 0
        for piece in response.iter_text():
            received += piece
            if seqs(parsed(received)[0]) == [1, 2, 3, 4, 5]:
                beats = received.count("\n: ")
            if beats == 2:
                suite.trainer.advance(name)
    assert seqs(parsed(received)[0]) == ALL
    assert beats >= 2


def test_filters(http, suite):
    name = created(http, suite)
    steps = http.get(PATH, params={"name": name, "kinds": "EVENT_KIND_STEP_METRICS", "after_seq": 20}).text
    assert {event["kind"] for event in parsed(steps)[0]} == {"EVENT_KIND_STEP_METRICS"}
    assert seqs(parsed(steps)[0])[0] == 21
    warnings = parsed(http.get(PATH, params={"name": name, "min_level": "EVENT_LEVEL_WARNING"}).text)[0]
    assert warnings == []


def test_a_stream_begins_at_a_time_or_now_and_keeps_a_rate(http, suite):
    name = created(http, suite, step_seconds=0.1)
    suite.clock.advance("3s")
    begun = parsed(read_until(http, {"name": name, "min_interval": "0.01s"}, events=30))[0]
    moment = begun[19]["event_time"]
    late = parsed(read_until(http, {"name": name, "after_time": moment}, events=5))[0]
    with http.stream("GET", PATH, params={"name": name, "now": "", "heartbeat": "0.1s"}) as response:
        pieces = response.iter_text()
        received = next(pieces)
        while "id: " not in received:
            received += next(pieces)
        suite.clock.advance("1h")
        received += "".join(pieces)
    thinned = parsed(http.get(PATH, params={"name": name, "max_step_events_per_second": 2}).text)[0]

    at = datetime.fromisoformat(moment)
    assert seqs(late)[0] == next(event["seq"] for event in begun if datetime.fromisoformat(event["event_time"]) > at)
    newest = seqs(parsed(received)[0])
    assert newest == ALL[-len(newest) :]
    assert 0 < len(newest) < len(ALL) - 20
    steps = [event for event in thinned if event["kind"] == "EVENT_KIND_STEP_METRICS"]
    assert len(steps) == STEPS / 5
    assert len(thinned) == len(ALL) - STEPS + len(steps)


def read_until(http, query: dict[str, Any], *, events: int) -> str:
    """Read a stream until it has given so many events, and hang up."""
    received = ""
    with http.stream("GET", PATH, params=query) as response:
        for piece in response.iter_text():
            received += piece
            if len(parsed(received)[0]) >= events:
                break
    return received


@pytest.mark.parametrize(
    ("query", "status", "reason"),
    [
        ({"name": "none"}, 404, "JOB_NOT_FOUND"),
        ({"name": "none", "heartbeat": "1h"}, 400, "INVALID_REQUEST"),
        ({"name": "none", "kinds": "steps"}, 400, "INVALID_REQUEST"),
        ({"name": "none", "now.x": "1"}, 400, "INVALID_REQUEST"),
        ({"name": "none", "min_interval": "61s"}, 400, "INVALID_REQUEST"),
        ({"now": "", "after_time": "2026-01-01T00:00:00Z"}, 400, "INVALID_REQUEST"),
        ({"after_seq": "9999"}, 400, "FUTURE_SEQ"),
        ({"cursor": "made up"}, 400, "CURSOR_INVALID"),
        ({"cursor": "made up", "after_seq": "1"}, 400, "INVALID_REQUEST"),
    ],
)
def test_what_is_refused_has_a_status(http, suite, query, status, reason):
    response = http.get(PATH, params={"name": created(http, suite), **query})
    assert (response.status_code, response.json()["error"]["reason"]) == (status, reason)


def test_a_reader_who_takes_nothing_holds_nothing_up(address, http, suite):
    name = created(http, suite, steps=3000)
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as idle:
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        idle.sendall(f"GET {PATH}?name={name} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
        assert seqs(parsed(http.get(PATH, params={"name": name}).text)[0]) == list(range(1, 3010))


def test_a_stream_takes_a_place_until_its_client_hangs_up(http, suite, serve):
    name = created(http, suite, hold_at=2)
    with serve(suite, max_streams=1) as small, httpx2.Client(base_url=f"http://{small}", timeout=60) as client:
        with client.stream("GET", PATH, params={"name": name}) as first:
            assert first.status_code == 200
            refused = client.get(PATH, params={"name": name})
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert refused.json()["error"]["reason"] == "TOO_MANY_REQUESTS"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with client.stream("GET", PATH, params={"name": name}) as second:
                if second.status_code == 200:
                    break
        assert second.status_code == 200


def test_a_server_that_stops_ends_its_streams(http, suite, serve):
    name = created(http, suite, hold_at=2)
    with httpx2.Client(timeout=60) as client:
        with serve(suite) as address:
            url = f"http://{address}{PATH}"
            response = client.send(client.build_request("GET", url, params={"name": name}), stream=True)
        assert seqs(parsed(response.read().decode())[0]) == [1, 2]
