# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC110, ASYNC240 - what is waited for is another process, or shows in an answer alone
"""The trainer's database on a server goes away: no job is lost or failed, and whoever asks is told to come back."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2, trainer_pb2
from finetree_runtime.config.settings import SecretUrl
from finetree_trainer import outages
from finetree_trainer.api import worker_servicer
from finetree_trainer.store.backends import availability
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from postgresql_server import repeated
from sqlalchemy import event as sqlalchemy_event
from trainer_harness import ROWS, Server, assert_whole, job_request, jsonl, refusal, states, steps, trainer

STEP = event_pb2.EVENT_KIND_STEP_METRICS
SERVICE = "finetree_api.trainer.v1.TrainerService"
PASSWORD = "p/a:ss@wörd%"

pytestmark = pytest.mark.slow(25)

_at_every_write = repeated(Path(__file__).with_name("test_outages.py"), "test_an_outage_at_every_write_costs_no_job")[
    "test_an_outage_at_every_write_costs_no_job"
]
_outages = sys.modules[_at_every_write.__module__]


@pytest.fixture
def soon(monkeypatch):
    """Pauses and ticks as short as a test's."""
    monkeypatch.setattr(outages, "FIRST_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(outages, "LONGEST_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(worker_servicer, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(availability, "TICK_SECONDS", 0.1)


@pytest.fixture
def schema(postgresql):
    return postgresql.new_schema()


@pytest.fixture
def database_url(postgresql, schema):
    return SecretUrl(postgresql.url(schema))


class Terminated:
    """The server ends the writer's connection with each COMMIT."""

    def __init__(self, talk, postgresql) -> None:
        self.away, self._postgresql = False, postgresql
        sqlalchemy_event.listen(talk.application._store._writing, "commit", self._commit)

    def _commit(self, connection) -> None:
        if self.away:
            process = connection.connection.driver_connection.info.backend_pid
            self._postgresql.run(f"SELECT pg_terminate_backend({process}, 10000)")

    def begin(self) -> None:
        self.away = True

    def end(self) -> None:
        self.away = False

    def close(self) -> None:
        self.away = False


async def test_a_connection_that_is_lost_at_every_write_costs_no_job(
    tmp_path, monkeypatch, soon, postgresql, database_url
):
    def on_a_server(tmp_path, *arguments):  # noqa: ANN002, ANN202 - those of `trainer`
        return trainer(tmp_path, *arguments, database_url=database_url)

    monkeypatch.setattr(_outages, "trainer", on_a_server)
    monkeypatch.setattr(_outages, "REFUSED_COMMITS", 2)
    monkeypatch.setitem(_outages.FAULTS, "terminated", lambda talk: Terminated(talk, postgresql))
    monkeypatch.setitem(_outages.AWAY, "terminated", ("UNAVAILABLE", "STORE_UNAVAILABLE"))
    monkeypatch.setattr(availability, "TICK_SECONDS", 60.0)  # its look would be one of the writes that fail
    _outages_soon(monkeypatch)
    await _at_every_write(tmp_path, monkeypatch, None, "terminated")


def _outages_soon(monkeypatch) -> None:
    monkeypatch.setattr(_outages.time_limits, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(_outages.observations, "FIRST_DELAY_SECONDS", 0.05)


async def readiness(talk) -> int:
    stub = health_pb2_grpc.HealthStub(talk.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE))).status


def retry_seconds(error: grpc.aio.AioRpcError) -> float:
    details = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(details["grpc-status-details-bin"])
    info = error_details_pb2.RetryInfo()
    return next(info.retry_delay.ToTimedelta().total_seconds() for d in status.details if d.Unpack(info))


async def test_kill_9_of_the_server_fails_no_job_and_readiness_tells(tmp_path, soon, postgresql, database_url):
    script = {"steps": 60, "delay": 0.02}
    async with trainer(tmp_path, script, database_url=database_url) as talk:
        dataset = (await talk.upload(jsonl(ROWS))).name
        job = await talk.train(dataset=dataset)
        watching = asyncio.create_task(talk.events(job.name, seconds=60))
        await talk.until(job.name, lambda e: e.kind == STEP)
        postgresql.kill()
        request = trainer_pb2.CreateJobRequest(job=job_request(dataset), request_id="meanwhile")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.stub.CreateJob(request)
        assert refusal(error.value)[:2] == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        assert retry_seconds(error.value) > 0
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.job(job.name)
        assert refusal(error.value)[:2] == ("UNAVAILABLE", "STORE_UNAVAILABLE")
        async with asyncio.timeout(60):
            while await readiness(talk) != health_pb2.HealthCheckResponse.NOT_SERVING:
                await asyncio.sleep(0.02)
        live = await health_pb2_grpc.HealthStub(talk.channel).Check(health_pb2.HealthCheckRequest())
        assert live.status == health_pb2.HealthCheckResponse.SERVING
        await asyncio.to_thread(postgresql.start)
        async with asyncio.timeout(60):
            while await readiness(talk) != health_pb2.HealthCheckResponse.SERVING:
                await asyncio.sleep(0.02)
        events = await watching
        assert_whole(events)
        assert steps(events) == [(1, step) for step in range(1, 61)]
        assert states(events) == ["QUEUED", "PREPARING", "RUNNING", "SUCCEEDED"]
        made = (await talk.stub.CreateJob(request)).job
        assert (await talk.stub.CreateJob(request)).job.name == made.name
        assert_whole(await talk.events(made.name))


async def test_kill_9_of_service_and_server_together_loses_nothing_acknowledged(tmp_path, postgresql, database_url):
    running = Server(tmp_path, {"steps": 100, "delay": 0.02}, database_url=database_url)
    talk = await running.start()
    job = await talk.train()
    seen = await talk.until(job.name, lambda e: e.kind == STEP and e.step_metrics.step >= 5)
    await asyncio.gather(running.kill(), asyncio.to_thread(postgresql.kill))
    await asyncio.to_thread(postgresql.start)
    try:
        talk = await running.start()
        events = await talk.events(job.name, seconds=60)
    finally:
        await running.kill()
    assert_whole(events)
    assert events[: len(seen)] == seen
    assert steps(events) == [(1, step) for step in range(1, 101)]
    assert events[-1].terminal.state == job_pb2.JOB_STATE_SUCCEEDED


def started(folder: Path, *flags: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = (sys.executable, "-m", "finetree_trainer", f"--data-dir={folder}", "--address=127.0.0.1:0", *flags)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def last_line(made: "subprocess.CompletedProcess[str]") -> str:
    return made.stderr.splitlines()[-1]


def test_what_cannot_be_used_is_refused_at_the_start_without_the_password(tmp_path, postgresql, schema):
    secret = "kept%2Fto%3Aourselves"
    url = f"postgresql+psycopg://someone:{secret}@127.0.0.1:1/jobs"
    unreachable = started(tmp_path / "a", FINETREE_TRAINER_DATABASE_URL=url)
    assert unreachable.returncode == 2
    assert last_line(unreachable).startswith("DATABASE_UNREACHABLE: database_url: jobs on 127.0.0.1:1: ")
    flag = started(tmp_path / "b", f"--database-url={url}")
    assert flag.returncode == 2
    assert last_line(flag).startswith("SETTING_INVALID: --database-url: every process of this machine sees a password")
    for made in (unreachable, flag):
        assert "kept" not in made.stdout + made.stderr
        assert "Traceback" not in made.stderr
    # Nothing of it is left: the folder may be used with its own database now.
    assert not {"trainer.db", "database.json"} & {file.name for file in (tmp_path / "a").iterdir()}
    assert not (tmp_path / "b").exists()
    # A folder with jobs of its own is not begun anew on a server.
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "trainer.db").touch()
    other = started(tmp_path / "c", FINETREE_TRAINER_DATABASE_URL=postgresql.url(schema))
    assert other.returncode == 2
    assert last_line(other).startswith("DATA_DIR_HAS_DATABASE: ")


async def test_a_password_is_read_from_its_file_and_shown_nowhere(tmp_path, postgresql, schema):
    postgresql.run(f"CREATE ROLE locked LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
    passwords = tmp_path / "pgpass"
    passwords.write_text("127.0.0.1:*:*:locked:" + PASSWORD.replace(":", "\\:") + "\n")
    passwords.chmod(0o600)
    try:
        running = Server(tmp_path, {"steps": 1}, database_url=SecretUrl(postgresql.url(schema, user="locked")))
        wrong = started(tmp_path / "x", FINETREE_TRAINER_DATABASE_URL=running.options["database_url"].reveal())
        assert wrong.returncode == 2
        assert last_line(wrong).startswith("DATABASE_CREDENTIALS: ")
        running.within = ("env", f"PGPASSFILE={passwords}")
        try:
            talk = await running.start()
            events = await talk.events((await talk.train()).name)
            children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
            shown = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (running.process.pid, *children)]
        finally:
            await running.kill()
        assert_whole(events)
        assert not any(PASSWORD.encode() in each for each in shown)
        assert not any(PASSWORD in str(event) for event in events)
    finally:
        postgresql.run("DROP OWNED BY locked; DROP ROLE locked")


def test_backup_and_the_look_at_a_folder_say_where_its_database_is(tmp_path, postgresql, schema):
    from finetree_trainer.layout import Layout
    from finetree_trainer.store.backends.opening import open_store

    folder = tmp_path / "data"
    folder.mkdir()
    url = postgresql.url(schema)
    open_store(Layout(folder), SecretUrl(url)).close()

    def told(*arguments: str, **environment: str) -> dict:
        command = (sys.executable, "-m", "finetree_trainer.backup", *arguments)
        made = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        return json.loads(made.stdout.splitlines()[-1])

    refused = told("create", str(tmp_path / "backups"), "--data-dir", str(folder))
    assert refused["error"]["reason"] == "DATA_DIR_ON_SERVER"
    assert told("condition", str(folder))["error"]["reason"] == "DATABASE_URL_MISSING"
    found = told("condition", str(folder), FINETREE_TRAINER_DATABASE_URL=url)["result"]
    assert (found["database"], found["on_server"], found["jobs"]) == ("ok", True, 0)
    assert found["schema_version"] == found["known_schema_version"]
