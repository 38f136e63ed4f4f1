# SPDX-License-Identifier: Apache-2.0
"""What the contract promises, asked of a replica that follows: by what it reads, and by what it sends on.

Each trainer of these tests is one that follows another in this process, which leads.
"""

import asyncio
import contextlib
import dataclasses
from pathlib import Path

import grpc
import psycopg
import pytest
from finetree_api.trainer.v1 import capacity_pb2, job_pb2, serving_pb2, trainer_pb2, trainer_pb2_grpc, waiting_pb2
from finetree_runtime.config.settings import SecretUrl, SettingsError
from finetree_trainer.replicas import following, leader, opening, servicer
from finetree_trainer.store.backends import postgresql as backend
from held_port import held_port
from postgresql_server import repeated
from trainer_harness import ROWS, assert_whole, job_request, jsonl, refusal, trainer

HERE = Path(__file__).parent
METHODS = trainer_pb2.DESCRIPTOR.services_by_name["TrainerService"].methods_by_name

pytestmark = pytest.mark.slow(30)

REPEATED = (
    repeated(
        HERE / "test_watch.py",
        "test_every_cursor_goes_on_exactly_behind_its_batch",
        "test_a_filter_leaves_out_what_was_not_asked_for_and_the_cursor_moves_over_it",
        "test_heartbeats_carry_the_cursor_also_when_nothing_matches",
        "test_a_wrong_start_is_refused_and_never_moved_in_silence",
        "test_events_are_listed_in_both_orders_in_pages",
    )
    | repeated(
        HERE / "test_jobs.py",
        "test_two_requests_at_once_with_one_request_id_make_one_job",
        "test_jobs_are_listed_newest_first_in_pages_by_state_and_label",
        "test_jobs_wait_in_order_and_know_their_place",
        "test_an_artifact_is_listed_and_downloaded_in_ranges",
    )
    | repeated(
        HERE / "test_waiting.py",
        "test_a_call_returns_when_the_state_is_reached_or_can_no_longer_be",
        "test_every_change_of_every_job_comes_once_in_one_order_from_any_place",
    )
    | repeated(
        HERE / "test_datasets.py",
        "test_wrong_bytes_are_sent_again_from_the_start",
        "test_an_upload_without_a_name_is_refused",
    )
    | repeated(
        HERE / "test_projects.py",
        "test_what_another_project_holds_is_neither_shown_nor_changed_nor_told_from_what_does_not_exist",
        "test_a_token_of_another_project_gets_one_answer_whether_a_name_exists_or_not",
    )
    | repeated(
        HERE / "test_object_store.py",
        "test_what_the_disk_has_lost_is_listed_downloaded_and_used_again",
        "test_a_damaged_copy_is_named_and_never_used",
        "test_what_is_deleted_is_deleted_in_the_store_too",
    )
    | repeated(HERE / "test_object_links.py", "test_links_name_the_endpoint_that_clients_reach")
)
globals().update(REPEATED)


@pytest.fixture
def schema(postgresql):
    return postgresql.new_schema()


@pytest.fixture
def serve(postgresql, schema):
    """`serve(tmp_path, script, **settings)`: a trainer that follows; its `application` is that of the leader."""
    # Each replica has an audit log of its own; these have none.
    usual = {"database_url": SecretUrl(postgresql.url(schema)), "audit": "off"}

    @contextlib.asynccontextmanager
    async def follower(tmp_path, script=None, estimator=None, **changes):  # noqa: ANN003, ANN202 - any setting
        async with contextlib.AsyncExitStack() as replicas:
            talks = []
            for _ in range(2):
                address = f"127.0.0.1:{held_port()}"
                made = trainer(tmp_path, script, estimator, address=address, replica_address=address, **usual | changes)
                talks.append(await replicas.enter_async_context(made))
            first, second = talks
            assert (first.application._store.leads, second.application._store.leads) == (True, False)
            yield dataclasses.replace(second, application=first.application)

    return follower


@pytest.fixture(autouse=True)
def repeated_on_a_follower(serve, monkeypatch):
    for test in REPEATED.values():
        monkeypatch.setitem(test.__globals__, "trainer", serve)


def test_every_rpc_is_read_or_sent_on_and_no_change_is_read():
    assert set(METHODS) >= servicer.READ_HERE
    unread = set(METHODS) - servicer.READ_HERE
    assert {"CreateJob", "CancelJob", "WriteDataset", "Generate", "GetCapacity", "DeleteJob"} <= unread
    # A rpc of these words that changes nothing, and is not read here, asks for what the leader alone has.
    asks = {name for name in unread if name.startswith(("Get", "List", "Read", "Watch", "Query"))}
    assert asks == {"GetCapacity", "GetLimits", "GetSweep", "ListTargets"}
    assert servicer.ASKS_STORE <= servicer.READ_HERE


def shown(error: grpc.aio.AioRpcError) -> tuple:
    """All that a client gets of an error, but for the id of the call."""
    return error.code(), error.details(), sorted((k, v) for k, v in error.trailing_metadata() if k != "x-request-id")


async def test_an_error_of_the_leader_arrives_as_it_left(tmp_path, serve):
    async with serve(tmp_path) as talk, of_the_leader(talk) as stub:
        ways = [talk.stub, stub]
        dataset = (await talk.upload(jsonl(ROWS))).name
        wrong = job_request("datasets/none"), job_request(dataset, model="nowhere")
        for request in (trainer_pb2.CreateJobRequest(job=job) for job in wrong):
            errors = []
            for way in ways:
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await way.CreateJob(request, metadata=(("x-request-id", "mine"),))
                assert ("x-request-id", "mine") in tuple(error.value.trailing_metadata())
                errors.append(shown(error.value))
            assert errors[0] == errors[1]
        # Of a stream of requests too, and what this replica itself refuses in the middle of one.
        created = await talk.create_dataset(jsonl(ROWS[:1]))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.write(created.name, [(5, b"x")])
        assert refusal(error.value)[:2] == ("OUT_OF_RANGE", "OFFSET_MISMATCH")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.write(created.name, [(0, b"x"), (-1, b"x")])
        assert refusal(error.value)[0] == "INVALID_ARGUMENT"


@contextlib.asynccontextmanager
async def of_the_leader(talk):
    async with grpc.aio.insecure_channel(talk.application._settings.address) as channel:
        yield trainer_pb2_grpc.TrainerServiceStub(channel)


async def test_a_token_of_one_replica_s_list_is_one_of_every_replica(tmp_path, serve):
    async with serve(tmp_path, {"steps": 1}) as talk, of_the_leader(talk) as stub:
        dataset = (await talk.upload(jsonl(ROWS))).name
        made = [await talk.train(dataset=dataset, suspended=True) for _ in range(2)]
        page = await talk.stub.ListJobs(trainer_pb2.ListJobsRequest(page_size=1))
        rest = await stub.ListJobs(trainer_pb2.ListJobsRequest(page_size=1, page_token=page.next_page_token))
        assert [job.name for job in (*page.jobs, *rest.jobs)] == [made[1].name, made[0].name]


@pytest.mark.parametrize("way", ["told", "polled"])
async def test_watchers_wake_by_a_notification_and_without_one_too(tmp_path, serve, monkeypatch, way):
    if way == "told":
        monkeypatch.setattr(following, "POLL_SECONDS", 600.0)
    else:
        monkeypatch.setattr(following, "Listener", Deaf)
        monkeypatch.setattr(following, "POLL_SECONDS", 0.05)
    async with serve(tmp_path, {"steps": 30, "delay": 0.01}) as talk:
        job = await talk.train()
        whole = asyncio.create_task(talk.events(job.name))
        wait = waiting_pb2.WaitJobRequest(name=job.name, wait_seconds=20)
        while not (waited := await talk.stub.WaitJob(wait)).reached:
            pass
        assert waited.job.state == job_pb2.JOB_STATE_SUCCEEDED
        assert_whole(await whole)


class Deaf:
    """A listener that hears nothing."""

    def __init__(self, engine, *_) -> None:  # noqa: ANN002
        engine.dispose()

    def close(self) -> None:
        pass


async def leads_somewhere(talk) -> bool:
    with contextlib.suppress(grpc.aio.AioRpcError):
        await talk.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
        return True
    return False


async def test_without_a_leader_reads_go_on_and_changes_are_told_to_come_back(
    tmp_path, serve, monkeypatch, postgresql, schema
):
    monkeypatch.setattr(leader, "WAIT_SECONDS", 0.3)
    monkeypatch.setattr(following, "POLL_SECONDS", 0.05)
    async with serve(tmp_path, {"steps": 1}) as talk:
        job = await talk.train()
        assert_whole(await talk.events(job.name))
        waiting = await talk.train(dataset=job.train.spec.dataset.name, suspended=True)
        # Where another replica was that has gone: nobody answers there.
        postgresql.run("UPDATE meta SET value = '127.0.0.1:1' WHERE key = 'leader'", database=schema)
        async with asyncio.timeout(60):
            while await leads_somewhere(talk):
                pass
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.stub.GetCapacity(capacity_pb2.GetCapacityRequest())
        assert refusal(error.value)[:2] == ("UNAVAILABLE", "LEADER_UNAVAILABLE")
        assert "grpc-retry-pushback-ms" in dict(error.value.trailing_metadata())
        assert (await talk.job(job.name)).state == job_pb2.JOB_STATE_SUCCEEDED
        assert (await talk.job(waiting.name)).state == job_pb2.JOB_STATE_QUEUED
        assert_whole(await talk.events(job.name))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async for _ in talk.stub.Generate(serving_pb2.GenerateRequest(job=job.name, prompt="Hello")):
                pass
        assert refusal(error.value)[1] == "LEADER_UNAVAILABLE"
        # One that believes itself to be sent to the leader is not sent on again.
        postgresql.run(f"UPDATE meta SET value = '{talk.address}' WHERE key = 'leader'", database=schema)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.stub.GetCapacity(capacity_pb2.GetCapacityRequest(), metadata=((leader.FORWARDED, "1"),))
        assert refusal(error.value)[1] == "LEADER_UNAVAILABLE"


async def test_a_replica_that_cannot_be_one_is_refused_at_the_start(tmp_path, postgresql, schema):
    url = SecretUrl(postgresql.url(schema))
    address = f"127.0.0.1:{held_port()}"

    async def refused(**changes) -> str:  # noqa: ANN003 - any setting
        with pytest.raises(SettingsError) as error:
            async with trainer(tmp_path, {}, replica_address=address, **changes):
                pass
        return error.value.reason

    assert await refused() == "SETTING_INVALID"
    with pytest.raises(SettingsError, match=r"no client.s certificate.*use tokens") as error:
        async with trainer(tmp_path, {}, replica_address=address, database_url=url, tls_client_ca=tmp_path / "ca.pem"):
            pass
    assert error.value.reason == "SETTING_INVALID"
    async with trainer(tmp_path, {}, database_url=url):
        assert await refused(database_url=url) == "DATA_DIR_IN_USE"
    async with trainer(tmp_path, {}, database_url=url, replica_address=address, address=address):
        with pytest.raises(SettingsError) as error:
            async with trainer(tmp_path, {}, database_url=url):
                pass
        assert error.value.reason == "DATA_DIR_IN_USE"


async def test_the_metrics_of_a_replica_are_those_of_the_page(tmp_path, postgresql, schema):
    page = HERE.parents[2].joinpath("docs/metrics.md").read_text(encoding="utf-8")
    address = f"127.0.0.1:{held_port()}"
    url = SecretUrl(postgresql.url(schema))
    metrics = str(held_port())
    async with trainer(
        tmp_path, {}, database_url=url, replica_address=address, address=address, metrics_address=metrics
    ) as one:
        shown = one.application._service.meter.instruments
    own = [one for one in shown if one.name in {"finetree_leader", "finetree_forwarded_calls_total"}]
    assert len(own) == 2
    for one in own:
        labels = f" {', '.join(one.labels)} |" if one.labels else " |"
        assert f"| `{one.name}` | {one.kind} |{labels} {one.text} |" in page


async def test_a_database_of_another_trainer_is_not_followed(tmp_path, postgresql, schema, monkeypatch):
    monkeypatch.setattr(opening, "START_SECONDS", 0.3)
    url = SecretUrl(postgresql.url(schema))
    (tmp_path / "other").mkdir()
    with pytest.raises(SettingsError) as error:
        async with (
            trainer(tmp_path, {}, database_url=url),
            trainer(tmp_path / "other", {}, database_url=url, replica_address=f"127.0.0.1:{held_port()}"),
        ):
            pass
    assert error.value.reason == "DATABASE_OF_OTHER_FOLDER"
    postgresql.run("UPDATE meta SET value = '1' WHERE key = 'schema_version'", database=schema)
    postgresql.run("DELETE FROM meta WHERE key = 'data_folder'", database=schema)
    reasons = []
    with psycopg.connect(postgresql.url(schema).replace("+psycopg", ""), autocommit=True) as holder:
        async with asyncio.timeout(60):  # the server frees the lock of a closed connection a moment later
            while holder.execute(backend._LOCK).fetchone() != (True,):  # noqa: ASYNC110 - a lock sets no event
                await asyncio.sleep(0.02)
        for version in (1, 99):
            postgresql.run(f"UPDATE meta SET value = '{version}' WHERE key = 'schema_version'", database=schema)
            with pytest.raises(SettingsError) as error:
                async with trainer(tmp_path, {}, database_url=url, replica_address=f"127.0.0.1:{held_port()}"):
                    pass
            reasons.append(error.value.reason)
    assert reasons == ["DATABASE_TOO_OLD", "DATABASE_TOO_NEW"]
