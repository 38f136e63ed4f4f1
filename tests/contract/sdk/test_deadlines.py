# SPDX-License-Identifier: Apache-2.0
"""A service that accepts connections and never says a word: every public method ends by its deadline."""

import asyncio
import inspect
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import finetree
import pytest
from finetree.testing import Script
from finetree_api.trainer.v1 import trainer_pb2

SECONDS = 0.5
LATE = 10.0
"""Seconds after which a method counts as hung, on a machine that does much else."""
SPEC = {"model": {"name": "tiny"}}
ARGUMENTS = {
    "artifact": "projects/p/jobs/1/artifacts/a",
    "dataset": "d",
    "directory": "/nowhere",
    "folder": "/nowhere",
    "job": SPEC,
    "messages": "Hello?",
    "method": "lora",
    "model": {"name": "tiny"},
    "name": "1",
    "names": ["1", "2"],
    "path": "a",
    "observation": {"job": "projects/default/jobs/a", "attempt": 1, "run": {"spec": SPEC}, "step_seconds": 0.5},
    "policy": {"fit": True},
    "prompt": "Hello?",
    "request": {"model": {"name": "tiny"}},
    "rows": {"a": SPEC},
    "service": "trainer",
    "source": b'{"text": "a"}',
    "spec": SPEC,
    "step": 1,
    "what": SPEC,
    "weights": "projects/p/jobs/1/artifacts/a",
}
"""Value of each parameter that has no default, in whichever method; a new method may need one more."""
NEEDED = {
    "call": {"method": "/finetree_api.trainer.v1.TrainerService/GetJob", "request": trainer_pb2.GetJobRequest()},
    "evaluation_report": {"job": "1"},
    "prepare": {"dataset": "d"},
    "preview_dataset": {"dataset": "d"},
    "recommend": {"request": SPEC},
    "push": {"repository": "a/b", "token": "hf_none", "endpoint": "http://127.0.0.1:9"},
    "verify_serving": {"url": "http://127.0.0.1:9", "job": "1"},
    "wait_job": {"wait": 0},
    "update": {"labels": {"team": "search"}},
    "update_checkpoint": {"pinned": True},
    "create_sweep": {"job": SPEC, "parameters": {"lora.rank": [4, 8]}},
    "validate_sweep": {"job": SPEC, "parameters": {"lora.rank": [4, 8]}},
}
"""What else a method must be given, or be given in place of the above, lest it refuse before it calls."""
POSITIONAL = {"evaluate": ("1",)}
"""Arguments of methods that take any number of them."""
WITHOUT_A_CALL = {"close", "job", "serving", "trained_weights", "with_options"}
FOR_AS_LONG_AS_IT_TAKES = {
    "chat",
    "download",
    "download_checkpoint",
    "evaluation_report",
    "events",
    "export_metrics",
    "generate",
    "push",
    "read_file",
    "read_log",
    "upload_dataset",
    "wait",
    "wait_for",
    "wait_ready",
    "watch",
    "watch_jobs",
}
"""Their `timeout` is for the whole and the caller's alone: that of a client is for unary calls."""


def methods(*classes: type):
    """Public methods, by class and name."""
    return [
        (cls, name)
        for cls in classes
        for name, _ in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_") and name not in WITHOUT_A_CALL
    ]


def call(target, name, **options: float):
    """Call a method with what it needs."""
    method = getattr(target, name)
    parameters = inspect.signature(method).parameters.values()
    required = {p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    own = NEEDED.get(name, {})
    return method(
        *POSITIONAL.get(name, ()), **{each: ARGUMENTS[each] for each in required - set(own)}, **own, **options
    )


def seconds_until_timeout(work):
    started = time.monotonic()
    with pytest.raises(finetree.FinetreeTimeout):
        work()
    return time.monotonic() - started


@pytest.fixture
def black_hole():
    """Address at which the operating system accepts connections that nobody reads."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(256)
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("of_the_client", [False, True])
def test_every_method_ends(black_hole, of_the_client):
    cases = methods(finetree.Client, finetree.Job, finetree.Serving)
    options = {"timeout": SECONDS}
    if of_the_client:
        cases, options = [case for case in cases if case[1] not in FOR_AS_LONG_AS_IT_TAKES], {}

    def run(case) -> float:
        cls, name = case
        target = {finetree.Job: client.job, finetree.Serving: client.serving}.get(cls, lambda _: client)("1")

        def work() -> None:
            result = call(target, name, **options)
            if isinstance(result, finetree.Pages | Iterator):
                list(result)

        return seconds_until_timeout(work)

    with (
        finetree.Client(black_hole, timeout=SECONDS if of_the_client else None) as client,
        ThreadPoolExecutor(len(cases)) as threads,
    ):
        for case, seconds in zip(cases, threads.map(run, cases), strict=True):
            assert SECONDS * 0.9 <= seconds < LATE, case


@pytest.mark.parametrize("of_the_client", [False, True])
async def test_every_asynchronous_method_ends(black_hole, of_the_client):
    cases = methods(finetree.AsyncClient, finetree.AsyncJob, finetree.AsyncServing)
    options = {"timeout": SECONDS}
    if of_the_client:
        cases, options = [case for case in cases if case[1] not in FOR_AS_LONG_AS_IT_TAKES], {}

    async def run(case) -> float:
        cls, name = case
        handles = {finetree.AsyncJob: client.job, finetree.AsyncServing: client.serving}
        target = handles.get(cls, lambda _: client)("1")
        started = time.monotonic()
        with pytest.raises(finetree.FinetreeTimeout):
            await finished(call(target, name, **options))
        return time.monotonic() - started

    async def finished(result) -> None:
        if inspect.isawaitable(result):
            await result
        else:
            async for _ in result:
                raise AssertionError("a black hole gave something")

    async with finetree.AsyncClient(black_hole, timeout=SECONDS if of_the_client else None) as client:
        for case, seconds in zip(cases, await asyncio.gather(*map(run, cases)), strict=True):
            assert SECONDS * 0.9 <= seconds < LATE, case


def test_a_later_page_has_the_deadline_of_the_first(do, suite):
    pages = do.client().list_models(page_size=2, timeout=SECONDS)
    taken = iter(pages) if not do.aio else aiter(pages)
    do.all(taken, 2)
    suite.faults.hold("ListModels")
    assert seconds_until_timeout(lambda: do.all(taken)) < LATE


def test_a_stream_that_attaches_again_has_what_is_left_of_its_time(do, suite, spec):
    suite.trainer.script = Script(hold_at=5)
    job = do(do.client().create_job(spec))
    suite.trainer.disconnect_after(2)
    stream = job.events(timeout=1.5)
    assert seconds_until_timeout(lambda: do.all(stream)) < LATE
    first, second = suite.faults.calls("WatchJob")
    assert second.seconds < first.seconds <= 1.6


def test_waiting_is_over_in_time_also_when_the_job_ends_and_the_service_falls_silent(do, suite, spec):
    job = do(do.client().create_job(spec))
    suite.faults.hold("GetJob")
    assert seconds_until_timeout(lambda: do(job.wait(timeout=SECONDS))) < LATE * 0.7


def test_a_download_begins_with_a_list_that_has_its_deadline(do, suite, spec, tmp_path):
    job = do(do.client().create_job(spec))
    suite.faults.hold("ListArtifacts")
    assert seconds_until_timeout(lambda: do(job.download(tmp_path, timeout=SECONDS))) < LATE * 0.7
