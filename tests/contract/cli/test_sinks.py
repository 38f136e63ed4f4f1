# SPDX-License-Identifier: Apache-2.0
"""Sinks behind the logs of the fake suite: complete, in order, and undisturbed by targets that fail."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from finetree.testing import Script, Suite
from finetree_cli import __main__ as entry
from finetree_cli.sinks import pump as pumps
from finetree_cli.sinks.config import read_sinks
from finetree_cli.sinks.cursors import Cursors
from finetree_cli.sinks.pump import Pump
from receiver import SECRET, Receiver


@pytest.fixture
def suite(monkeypatch) -> Iterator[Suite]:
    with Suite() as made:
        made.trainer.script = Script(steps=6)
        made.base_models.add("acme/small")
        monkeypatch.setenv("FINETREE_ADDRESS", made.address)
        monkeypatch.setenv("HOOK_SECRET", SECRET)
        yield made


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made
        assert made.problems == []


@pytest.fixture
def train(suite):
    def job(**labels: str) -> str:
        rows = suite.datasets.add([{"prompt": "a", "completion": "b"}])
        spec = {"model": {"name": "small"}, "lora": {"rank": 8}, "dataset": {"name": rows.name}}
        with suite.client() as client:
            return client.train(spec, labels=labels or None).uid

    return job


@pytest.fixture
def sinks_file(tmp_path, receiver) -> Path:
    path = tmp_path / "sinks.yaml"
    hook = f"webhook: {{url: '{receiver.url}', secret_env: HOOK_SECRET}}"
    path.write_text(f"sinks:\n- {{name: hook, {hook}, existing: true}}\n", encoding="utf-8")
    return path


@pytest.fixture
def pump(suite, sinks_file, tmp_path, monkeypatch) -> Iterator[Pump]:
    """A pump that waits for nothing between two attempts."""
    monkeypatch.setattr(pumps, "wait_after", lambda failures, asked=0.0: asked)  # noqa: ARG005
    lines: list[str] = []
    with Cursors(tmp_path / "state") as cursors, suite.client() as client:
        made = Pump(read_sinks(str(sinks_file))[0], client, cursors, lines.append)
        yield made


def log(suite: Suite, job: str) -> list[int]:
    with suite.client() as client:
        return [event.seq for event in client.job(job).list_events(last=1000)]


def test_every_event_arrives_in_the_order_of_its_log(suite, pump, receiver, train):
    jobs = [train(), train()]
    assert pump.step()
    for job in jobs:
        assert receiver.first_deliveries(job) == log(suite, job)
    assert receiver.requests == sum(len(log(suite, job)) for job in jobs)


def test_nothing_is_sent_again_when_nothing_is_new(pump, receiver, train):
    train()
    assert pump.step()
    sent = receiver.requests
    assert pump.step()
    assert receiver.requests == sent


def test_a_job_is_followed_while_it_runs(suite, pump, receiver, train):
    suite.trainer.script = Script(steps=4, step_seconds=60)
    job = train()
    pump.step()
    first = len(receiver.taken)
    suite.clock.advance("2m")
    pump.step()
    assert first < len(receiver.taken)
    suite.clock.advance("1h")
    assert pump.step()
    assert receiver.first_deliveries(job) == log(suite, job)


FAILURES = {
    "an error of the receiver": lambda _: (500, {}, b"out of order"),
    "a busy receiver": lambda _: (429, {"Retry-After": "0"}, b""),
    "a cut connection": lambda _: None,
    "a refusal": lambda _: (400, {}, b"no"),
    "a redirect": lambda _: (302, {"Location": "http://127.0.0.1:1/"}, b""),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_failing_receiver_loses_nothing_and_gets_no_later_event_first(suite, pump, receiver, train, failure):
    job = train()
    well, every_third = receiver.answer, iter(range(10_000))
    receiver.answer = lambda event: failure(event) if next(every_third) % 3 == 1 else well(event)
    for _ in range(100):
        if pump.step():
            break
    assert receiver.first_deliveries(job) == log(suite, job)


def test_a_refused_job_does_not_hold_up_the_others(suite, pump, receiver, train, monkeypatch):
    stuck, well = train(), receiver.answer
    receiver.answer = lambda event: (422, {}, b"unknown job") if event["data"]["job_uid"] == stuck else well(event)
    monkeypatch.setattr(pumps, "wait_after", lambda *_: 3600.0)
    other = train()
    assert not pump.step()
    assert receiver.first_deliveries(other) == log(suite, other)
    assert "422" in pump.cursors.get("hook", stuck).error


def test_a_target_that_was_away_for_weeks_gets_all_of_it(suite, pump, receiver, train):
    well, receiver.answer = receiver.answer, lambda _: (503, {}, b"")
    jobs = []
    for _ in range(5):
        jobs.append(train())
        assert not pump.step()
        suite.clock.advance("7d")
    receiver.answer = well
    assert pump.step()
    assert all(receiver.first_deliveries(job) == log(suite, job) for job in jobs)


def test_jobs_of_other_labels_are_not_sent(pump, receiver, train, tmp_path):
    config = (tmp_path / "sinks.yaml").read_text(encoding="utf-8").replace("existing: true", "labels: {team: a}")
    (tmp_path / "sinks.yaml").write_text(config.replace("}}", "}, existing: true}"), encoding="utf-8")
    pump.config = read_sinks(str(tmp_path / "sinks.yaml"))[0]
    mine, _ = train(team="a"), train(team="b")
    assert pump.step()
    assert {event["data"]["job_uid"] for event in receiver.taken} == {mine}


def test_jobs_from_before_the_first_run_are_left_out_where_the_file_says_so(pump, receiver, train, tmp_path):
    config = (tmp_path / "sinks.yaml").read_text(encoding="utf-8").replace("existing: true", "existing: false")
    (tmp_path / "sinks.yaml").write_text(config, encoding="utf-8")
    pump.config = read_sinks(str(tmp_path / "sinks.yaml"))[0]
    train()
    assert pump.step()
    assert receiver.taken == []
    later = train()
    assert pump.step()
    assert {event["data"]["job_uid"] for event in receiver.taken} == {later}


def test_what_retention_removed_is_counted(suite, pump, receiver, train):
    job = train()
    suite.trainer.expire_events(job, before=5)
    assert pump.step()
    assert receiver.first_deliveries(job)[0] == 5
    assert pump.cursors.lost("hook") == 4


def test_a_trainer_that_comes_back_is_asked_again(suite, pump, receiver, train):
    job = train()
    ended = threading.Event()

    def say(text: str) -> None:
        if "does not answer" in text:
            suite.start()
        ended.set()

    pump.say = say
    suite.stop()
    thread = threading.Thread(target=pump.run)
    thread.start()
    try:
        receiver.wait_for(len(log_after_start(suite, job, ended)))
    finally:
        pump.stop.set()
        thread.join(60)
    assert receiver.first_deliveries(job) == log(suite, job)


def log_after_start(suite: Suite, job: str, started: threading.Event) -> list[int]:
    assert started.wait(60)
    return log(suite, job)


def test_a_killed_process_goes_on_where_it_was(suite, receiver, train, sinks_file, tmp_path):
    jobs = [train() for _ in range(3)]
    total = sum(len(log(suite, job)) for job in jobs)
    command = [
        sys.executable,
        "-m",
        "finetree_cli",
        "sinks",
        "run",
        str(sinks_file),
        "--state-dir",
        str(tmp_path / "s"),
    ]
    for kill_at in (4, 11, 17, total // 2 + 1):
        with subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ) as process:
            receiver.wait_for(kill_at)
            process.send_signal(signal.SIGKILL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ) as process:
        wait_until_all(receiver, suite, jobs)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert b"the next run goes on where this one ended" in err
    # At least once, and only what was on the way at a kill twice.
    assert receiver.requests <= total + 4
    status = [*command[:4], "status", *command[5:], "--json"]
    shown = json.loads(subprocess.run(status, capture_output=True, check=True).stdout)["sinks"][0]
    assert (shown["behind"], shown["lost"], shown["error"]) == (0, 0, "")
    assert 'finetree_sink_behind_events{sink="hook"} 0\n' in (tmp_path / "s/sinks.prom").read_text()


def wait_until_all(receiver: Receiver, suite: Suite, jobs: list[str]) -> None:
    logs = {job: log(suite, job) for job in jobs}
    with receiver.arrived:
        done = lambda: all(receiver.first_deliveries(job) == logs[job] for job in jobs)  # noqa: E731
        assert receiver.arrived.wait_for(done, 60)


def test_tensorboard_files_are_those_of_an_export(suite, train, tmp_path, capsys):
    job = train()
    (tmp_path / "sinks.yaml").write_text("sinks:\n- {name: board, tensorboard: {folder: runs}}\n", encoding="utf-8")
    words = ["sinks", "run", str(tmp_path / "sinks.yaml"), "--once", "--state-dir", str(tmp_path / "state")]
    assert entry.run(words) == 0
    assert entry.run(["jobs", "export", job, "--format", "tensorboard", "--output", str(tmp_path / "by-hand")]) == 0
    one, other = (next((tmp_path / folder / job).glob("events.*")).read_bytes() for folder in ("runs", "by-hand"))
    assert one == other
    assert len(one) > 200
    check = ["sinks", "verify", str(tmp_path / "sinks.yaml"), "board", job, "--state-dir", str(tmp_path / "state")]
    assert entry.run(check) == 0
    file = next((tmp_path / "runs" / job).glob("events.*"))
    file.unlink()
    assert entry.run(check) == 3
    assert entry.run(words) == 0  # the job is done: what was deleted afterwards is not made again by itself
    capsys.readouterr()


def test_commands_refuse_what_they_cannot_do(suite, sinks_file, train, tmp_path, capsys):
    job, state = train(), ["--state-dir", str(tmp_path / "state")]
    assert entry.run(["sinks", "status", str(sinks_file), *state, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["reason"] == "NO_CURSORS"
    assert entry.run(["sinks", "run", str(sinks_file), "--once", *state]) == 0
    cases = {
        ("verify", "hook", job): "SINK_NOT_READABLE",
        ("verify", "other", job): "NO_SUCH_SINK",
        ("skip", "hook", job): "NOTHING_REFUSED",
    }
    for (verb, name, subject), reason in cases.items():
        capsys.readouterr()
        assert entry.run(["sinks", verb, str(sinks_file), name, subject, *state, "--json"]) == 2
        assert json.loads(capsys.readouterr().out)["error"]["reason"] == reason


def test_a_refused_event_can_be_given_up(suite, receiver, sinks_file, train, capsys):
    job, well = train(), receiver.answer
    receiver.answer = lambda event: (400, {}, b"bad") if event["data"]["seq"] == 3 else well(event)
    state = ["--state-dir", str(sinks_file.parent / "state")]
    assert entry.run(["sinks", "run", str(sinks_file), "--once", *state]) == 3
    assert entry.run(["sinks", "skip", str(sinks_file), "hook", job, *state]) == 0
    assert entry.run(["sinks", "run", str(sinks_file), "--once", *state]) == 0
    assert receiver.first_deliveries(job) == [seq for seq in log(suite, job) if seq != 3]
    capsys.readouterr()
    assert entry.run(["sinks", "status", str(sinks_file), *state]) == 0
    assert "1 events were no longer kept" in capsys.readouterr().out
