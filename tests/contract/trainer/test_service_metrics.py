# SPDX-License-Identifier: Apache-2.0
"""What the trainer's page shows of jobs that run, wait, are lost and end."""

import asyncio
import re
import socket
import urllib.request

import pytest
from finetree_api.trainer.v1 import event_pb2
from finetree_trainer.joblog.log import FencedError
from held_port import held_port
from trainer_harness import trainer

STEP = event_pb2.EVENT_KIND_STEP_METRICS


@pytest.fixture
def port():
    return held_port()


async def test_a_job_is_counted_while_it_runs_and_when_it_has_ended(tmp_path, port):
    script = {"steps": 3, "kill_at": {"1": 2}}
    async with trainer(tmp_path, script, metrics_address=str(port)) as one:
        before = await read(port)
        job = await one.train()
        await one.events(job.name)
        await until(port, lambda page: page["finetree_jobs"]["state", "recovering", "task", "train"] == 0)
        after = await until(port, lambda page: busy(page) == 0)
    assert sum(before["finetree_jobs"].values()) == 0
    assert sum(after["finetree_jobs"].values()) == 0
    assert before["finetree_attempts_total"]["outcome", "lost", "task", "train"] == 0
    assert after["finetree_attempts_total"]["outcome", "lost", "task", "train"] == 1
    assert after["finetree_attempts_total"]["outcome", "succeeded", "task", "train"] == 1
    assert after["finetree_jobs_ended_total"]["category", "", "state", "succeeded", "task", "train"] == 1
    assert after["finetree_queue_wait_seconds_count"]["task", "train"] == 2
    assert after["finetree_steps_total"]["method", "lora"] >= 3
    assert after["finetree_events_total"]["kind", "terminal"] == 1
    assert after["finetree_event_commit_seconds_count"][()] > 3
    assert after["finetree_event_batch_size_count"] == after["finetree_event_commit_seconds_count"]
    assert after["finetree_running_step"] == {}, "a job that has ended leaves a series behind"
    assert set(after["finetree_loop_up"].values()) == {1.0}
    assert after["finetree_fenced_writes_total"][()] == 0
    assert after["finetree_unknown_liveness"][()] == 0
    assert after["finetree_disk_bytes"]["state", "free"] > 0


async def test_a_running_job_is_seen_by_its_slot_and_a_waiting_one_by_its_age(tmp_path, port):
    async with trainer(tmp_path, {"steps": 400, "delay": 0.05}, metrics_address=str(port)) as one:
        running = await one.train()
        await one.until(running.name, lambda event: event.kind == STEP)
        waiting = await one.train()
        held = await one.train(suspended=True)
        page = await until(port, lambda page: page["finetree_queue_oldest_seconds"][()] > 0)
        for job in (held, waiting, running):
            await one.cancel(job.name)
        await one.events(running.name)
    jobs = page["finetree_jobs"]
    assert jobs["state", "running", "task", "train"] == 1
    assert jobs["state", "queued", "task", "train"] == 1
    assert jobs["state", "suspended", "task", "train"] == 1
    assert busy(page) == 1
    ((place, step),) = page["finetree_running_step"].items()
    assert dict(zip(place[::2], place[1::2], strict=True)) == {
        "device": "cpu",
        "node": socket.gethostname(),
        "slot": "0",
        "task": "train",
    }
    assert step >= 1
    assert page["finetree_running_total_steps"][place] == 400
    assert page["finetree_running_silence_seconds"][place] < 30
    assert page["finetree_running_checkpoint_age_seconds"][place] >= 0
    text = str(page)
    assert running.uid not in text, "a series of a job"
    assert waiting.uid not in text, "a series of a job"


async def test_a_watcher_that_has_seen_all_is_measured_and_one_that_catches_up_is_not(tmp_path, port):
    async with trainer(tmp_path, {"steps": 5, "delay": 0.05}, metrics_address=str(port)) as one:
        job = await one.train()
        await one.events(job.name)
        live = await read(port)
        with pytest.raises(FencedError):
            await one.application._log.change(job.uid, lambda *_: None, attempt=99)
        await one.events(job.name)
        again = await until(port, lambda page: page["finetree_watchers"][()] == 0)
    assert live["finetree_watch_lag_seconds_count"][()] > 0
    assert again["finetree_fenced_writes_total"][()] == 1
    assert again["finetree_watch_lag_seconds_count"] == live["finetree_watch_lag_seconds_count"]


async def test_an_estimate_is_compared_with_what_was_measured(tmp_path, port):
    """The harness' estimator says 60 s and 1 GiB."""
    summary = {"total_seconds": 90.0, "peak_memory_bytes": 2**29, "steps": 3}
    async with trainer(
        tmp_path, {"steps": 3, "summary": summary, "checkpoints": [2]}, metrics_address=str(port)
    ) as one:
        await one.events((await one.train()).name)
        page = await read(port)
    assert page["finetree_estimate_time_ratio_sum"]["method", "lora"] == pytest.approx(1.5)
    assert page["finetree_estimate_memory_ratio_sum"]["method", "lora"] == pytest.approx(0.5)
    assert page["finetree_tokens_total"]["method", "lora"] == 300
    assert page["finetree_checkpoint_seconds_count"][()] == 1


def busy(page):
    return sum(value for labels, value in page["finetree_device_slots"].items() if labels[-1] == "busy")


async def until(port, condition, seconds=60.0):
    async with asyncio.timeout(seconds):
        while True:
            page = await read(port)
            if condition(page):
                return page
            await asyncio.sleep(0.02)


async def read(port):
    """Values of the page by name and by (label, value, label, value …), labels in their order."""

    def fetch() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            return answer.read().decode()

    page = {}
    for line in (await asyncio.to_thread(fetch)).splitlines():
        if line.startswith("# TYPE"):
            page.setdefault(line.split()[2], {})
            continue
        if line.startswith("#"):
            continue
        name, labels, value = re.fullmatch(r"([a-z_]+)(\{.*\})? (\S+)", line).groups()
        pairs = sorted(re.findall(r'(\w+)="([^"]*)"', labels or ""))
        page.setdefault(name, {})[tuple(part for pair in pairs for part in pair)] = float(value)
    return page
