# SPDX-License-Identifier: Apache-2.0
"""A worker process from outside: how it ends, what it leaves, and what it never does."""

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_api.types.v1 import training_data_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.exchange.journal import FILE_NAME, read
from google.rpc import code_pb2, error_details_pb2


def journal(work_dir):
    with (work_dir / FILE_NAME).open("rb") as stream:
        return [record.event for record in read(stream)]


async def ended(process):
    """Its exit status, and that it has said nothing on its way."""
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert (out, err) == (b"", b"")
    return process.returncode


def reason(status):
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


async def test_a_task_from_hello_to_outcome(trainer, script, spawn, tmp_path, work_dir):
    script(steps=50, best_step=40)
    await trainer.start()
    assert await ended(await spawn()) == 0
    assert trainer.steps == list(range(1, 51))
    assert trainer.outcome.kind == worker_pb2.OUTCOME_KIND_SUCCEEDED
    summary = trainer.outcome.summary
    assert (summary.steps, summary.first_loss, summary.peak_memory_bytes) == (50, 2.0, 1000)
    assert summary.best_step == 40
    assert summary.final_loss == pytest.approx(sum(2 / n for n in range(41, 51)) / 10)
    artifact = next(e.event.artifact_ready.artifact for e in trainer.stored if e.event.HasField("artifact_ready"))
    assert artifact.name == "projects/p/jobs/j/artifacts/adapter"
    manifest = json.loads((tmp_path / "artifacts" / "adapter" / "finetree.json").read_text())
    assert (manifest["attempt"], manifest["plan_digest"], manifest["base"]["hub_id"]) == (2, "sha256:1", "hub/base")
    assert journal(work_dir) == trainer.stored


async def test_events_carry_what_the_contract_asks_of_them(trainer, script, spawn):
    script(steps=20)
    await trainer.start()
    assert await ended(await spawn()) == 0
    steps = [e.event for e in trainer.stored if e.event.HasField("step_metrics")]
    assert {(e.kind, e.level, e.attempt) for e in steps} == {
        (event_pb2.EVENT_KIND_STEP_METRICS, event_pb2.EVENT_LEVEL_INFO, 2)
    }
    assert all(e.message and "\n" not in e.message and e.worker_time.seconds for e in steps)
    forecasts = [e.event for e in trainer.stored if e.event.HasField("forecast")]
    assert 5 <= len(forecasts) <= 10
    for made in forecasts:
        total = made.elapsed.ToNanoseconds() / 1e9 + made.forecast.eta_seconds.expected
        assert made.forecast.total_seconds.expected == pytest.approx(total, abs=1e-6)
        assert made.forecast.cost.amount.expected == pytest.approx(total, abs=1e-6)
        assert made.forecast.cost.currency_code == "EUR"


async def test_kill_9_leaves_a_readable_journal_with_all_that_was_acknowledged(trainer, script, spawn, work_dir):
    script(steps=100_000)
    await trainer.start()
    process = await spawn()
    await trainer.until(lambda: len(trainer.stored) >= 500, "500 events")
    os.kill(process.pid, signal.SIGKILL)
    assert await ended(process) == -signal.SIGKILL
    left = journal(work_dir)
    assert [event.worker_seq for event in left] == list(range(1, len(left) + 1))
    assert left[: len(trainer.stored)] == trainer.stored


async def test_a_service_that_is_killed_and_restarted_misses_nothing(trainer, script, spawn):
    script(steps=300, seconds=0.02)
    await trainer.start()
    process = await spawn()
    for count in (20, 120):
        await trainer.until(lambda wanted=count: len(trainer.stored) >= wanted, "events")
        await trainer.stop()
        await asyncio.sleep(0.2)
        await trainer.start()
    assert await ended(process) == 0
    assert trainer.steps == list(range(1, 301))
    assert trainer.outcome.kind == worker_pb2.OUTCOME_KIND_SUCCEEDED
    assert len(trainer.hellos) >= 3
    assert len({hello.boot_id for hello in trainer.hellos}) == 1


async def test_a_fenced_worker_ends_its_group_and_writes_no_artifact(trainer, script, spawn, tmp_path):
    script(steps=100_000, seconds=0.001, child=str(tmp_path / "child"))
    await trainer.start()
    process = await spawn()
    await trainer.until(lambda: trainer.steps, "training")
    trainer.send(fenced=worker_pb2.Fenced(current_attempt=3))
    async with asyncio.timeout(60):
        await process.wait()
    assert process.returncode == -signal.SIGKILL
    assert b"attempt 3 has taken over" in (await process.communicate())[1]
    child = int((tmp_path / "child").read_text())
    await trainer.until(lambda: gone(child), "the end of the worker's child")
    assert trainer.outcome is None
    assert not (tmp_path / "artifacts").exists()


def gone(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


@pytest.mark.parametrize(
    ("given", "kind", "saved"),
    [
        (("CANCEL", {}), worker_pb2.OUTCOME_KIND_CANCELLED, False),
        (("CANCEL", {"save_checkpoint": True}), worker_pb2.OUTCOME_KIND_CANCELLED, True),
        (("PAUSE", {}), worker_pb2.OUTCOME_KIND_PAUSED, True),
        (("PREEMPT", {}), worker_pb2.OUTCOME_KIND_INTERRUPTED, True),
    ],
    ids=["cancel", "cancel saving", "pause", "preempt"],
)
async def test_commands_end_the_task_as_they_say(trainer, script, spawn, given, kind, saved):  # noqa: PLR0917 - fixtures and parameters
    script(steps=100_000, seconds=0.001)
    await trainer.start()
    process = await spawn()
    await trainer.until(lambda: trainer.steps, "training")
    trainer.command(given[0], **given[1])
    assert await ended(process) == 0
    assert trainer.outcome.kind == kind
    assert any(e.event.HasField("checkpoint_saved") for e in trainer.stored) is saved
    assert not trainer.outcome.HasField("error")


async def test_sigterm_saves_a_checkpoint_and_ends_as_interrupted(trainer, script, spawn):
    script(steps=100_000, seconds=0.001)
    await trainer.start()
    process = await spawn()
    await trainer.until(lambda: trainer.steps, "training")
    process.terminate()
    assert await ended(process) == 0
    assert trainer.outcome.kind == worker_pb2.OUTCOME_KIND_INTERRUPTED
    assert any(e.event.HasField("checkpoint_saved") for e in trainer.stored)


async def test_an_orphan_saves_and_ends_with_its_record_on_disk(trainer, script, spawn, work_dir):
    script(steps=100_000, seconds=0.001)
    trainer.grace = 1
    await trainer.start()
    process = await spawn()
    await trainer.until(lambda: trainer.steps, "training")
    await trainer.stop()
    assert await ended(process) == 0
    left = journal(work_dir)
    assert left[-1].outcome.kind == worker_pb2.OUTCOME_KIND_INTERRUPTED
    assert left[-2].event.HasField("checkpoint_saved")


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        ("data", (job_pb2.FAILURE_CATEGORY_USER, code_pb2.INVALID_ARGUMENT, "MALFORMED_ROW", False)),
        ("disk", (job_pb2.FAILURE_CATEGORY_CAPACITY, code_pb2.RESOURCE_EXHAUSTED, "DISK_FULL", True)),
        ("memory", (job_pb2.FAILURE_CATEGORY_CAPACITY, code_pb2.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY", False)),
        ("bug", (job_pb2.FAILURE_CATEGORY_SYSTEM, code_pb2.INTERNAL, "WORKER_FAILED", True)),
    ],
    ids=["data", "disk", "memory", "bug"],
)
async def test_failures_name_their_owner_and_hide_our_paths(  # noqa: PLR0917 - fixtures and parameters
    trainer, script, spawn, work_dir, failure, expected
):
    script(steps=5, fail_at=3, failure=failure)
    await trainer.start()
    assert await ended(await spawn()) == 0
    outcome = trainer.outcome
    found = (outcome.failure_category, outcome.error.code, reason(outcome.error).reason, outcome.retryable)
    assert (outcome.kind, found) == (worker_pb2.OUTCOME_KIND_FAILED, expected)
    assert "secret" not in str(trainer.stored)
    if failure == "data":
        assert dict(reason(outcome.error).metadata) == {"field": "dataset[7]", "row": "7", "remedy": "Correct it."}
    if failure == "bug":
        assert "RuntimeError: secret at /srv/secret/path" in (work_dir / "worker.log").read_text()


async def test_an_idle_worker_works_on_the_task_that_it_is_given(trainer, script, spawn):
    script(steps=10)
    await trainer.start()
    process = await spawn("--idle", "--measure")
    await trainer.until(lambda: trainer.profiles, "the profile")
    assert trainer.profiles[0].matrix_rates.bf16_flops_per_second == 1e12
    trainer.send(task=trainer.task)
    assert await ended(process) == 0
    assert trainer.steps == list(range(1, 11))
    assert trainer.outcome.kind == worker_pb2.OUTCOME_KIND_SUCCEEDED


@pytest.mark.parametrize("how", ["shutdown", "sigterm"])
async def test_an_idle_worker_goes_home(trainer, spawn, how):
    await trainer.start()
    process = await spawn("--idle", "--measure")
    await trainer.until(lambda: trainer.profiles, "the profile")
    if how == "shutdown":
        trainer.command("SHUTDOWN")
    else:
        process.terminate()
    assert await ended(process) == 0


async def test_a_task_that_prepares_reports_on_its_rows(trainer, spawn):
    trainer.task.prepare.SetInParent()
    await trainer.start()
    assert await ended(await spawn()) == 0
    report = next(e.event.dataset_report for e in trainer.stored if e.event.HasField("dataset_report"))
    assert (report.profile.examples, report.profile.exact, report.split) == (3, True, training_data_pb2.SPLIT_TRAIN)
    assert trainer.outcome.kind == worker_pb2.OUTCOME_KIND_SUCCEEDED


async def test_a_task_that_this_worker_does_not_do_is_refused(trainer, spawn):
    # A kind that a later release has is a field that this one does not know.
    trainer.task.ClearField("train")
    await trainer.start()
    assert await ended(await spawn()) == 0
    assert trainer.outcome.kind == worker_pb2.OUTCOME_KIND_FAILED
    assert reason(trainer.outcome.error).reason == "TASK_NOT_SUPPORTED"


async def test_a_task_folder_that_cannot_be_written_is_an_io_error(trainer, script, spawn, work_dir):
    script(steps=1)
    work_dir.parent.mkdir(exist_ok=True)
    work_dir.write_text("a file where the folder should be")
    await trainer.start()
    process = await spawn()
    async with asyncio.timeout(60):
        _, err = await process.communicate()
    assert process.returncode == 74
    assert b"cannot write to the folder" in err
    assert str(work_dir).encode() not in err


async def test_neither_journal_nor_stream_nor_process_imports_a_training_library():
    names = "{'torch', 'transformers', 'numpy'}"
    code = f"import sys, finetree_worker.process.process; print(sorted({names} & set(sys.modules)))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert (await process.communicate())[0] == b"[]\n"
