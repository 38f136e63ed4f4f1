# SPDX-License-Identifier: Apache-2.0
"""Which requests are the same."""

import pytest
from finetree_api.trainer.v1 import job_pb2
from finetree_console.openai.errors import RefusedError
from finetree_console.openai.jobs import create
from finetree_console.openai.jobs.memory import ENTRIES, Memory, Newest
from starlette.requests import Request


def request(**headers: str):
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw})


def test_a_request_is_the_same_for_the_same_caller_and_content():
    one = create.identity_of(request(authorization="Bearer a"), b"body")
    assert one == create.identity_of(request(authorization="Bearer a"), b"body")
    assert one.label != create.identity_of(request(authorization="Bearer b"), b"body").label
    assert one.label != create.identity_of(request(authorization="Bearer a"), b"other").label
    assert not one.again


@pytest.mark.parametrize(("count", "again"), [("0", False), ("1", True), ("", False), ("-1", False), ("²", False)])
def test_a_retry_count_says_that_it_is_a_repetition(count, again):
    assert create.identity_of(request(x_stainless_retry_count=count), b"").again is again


def test_an_idempotency_key_decides_in_place_of_the_body():
    one = create.identity_of(request(idempotency_key="k"), b"body")
    other = create.identity_of(request(idempotency_key="k"), b"another body")
    assert (one.label, one.keyed, one.again) == (other.label, True, True)
    assert one.body != other.body
    with pytest.raises(RefusedError, match="at most 255"):
        create.identity_of(request(idempotency_key="k" * 256), b"")


def test_age_is_what_is_remembered_here_else_by_the_trainers_clock():
    memory, job = Memory(), job_pb2.Job(labels={create.REQUEST_LABEL: "label"})
    job.create_time.seconds = 1_000
    assert create.age_of(job, memory, 1_700.0) == 700
    memory.made("label")
    assert create.age_of(job, memory, 1_700.0) < 700


def test_memory_is_bounded():
    newest: Newest[int] = Newest()
    for number in range(ENTRIES + 10):
        newest.put(str(number), number)
    assert (newest.get("9"), newest.get("10")) == (None, 10)
