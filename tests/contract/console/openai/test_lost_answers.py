# SPDX-License-Identifier: Apache-2.0
"""A request whose answer was lost makes one job, whoever repeats it and through whichever door."""

from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest
from finetree_console.openai.jobs import create

MODEL = "smollm2-135m-instruct"
OWN = {"lora": {"rank": 4}, "training": {"learning_rate": 1e-4}}
JOBS = "/v1/fine_tuning/jobs"


def body(file, number):
    return {"model": MODEL, "training_file": file, "metadata": {"try": str(number)}, "finetree": OWN}


def jobs_of(client, number):
    return [job.id for job in client.fine_tuning.jobs.list(metadata={"try": str(number)})]


@pytest.fixture(scope="module")
def second_address(suite, serving):
    """Another door to the same suite, which has nothing in memory of what the first one did."""
    with serving(suite) as bound:
        yield bound


def test_the_client_repeats_a_lost_answer_and_gets_the_job_that_was_made(client, proxy, training_file):
    with openai.OpenAI(base_url=f"http://{proxy.address}/v1", api_key="key-of-a-test", max_retries=2) as cut:
        proxy.losses = [0, 40]
        job = cut.fine_tuning.jobs.create(
            model=MODEL, training_file=training_file, metadata={"try": "lost"}, extra_body={"finetree": OWN}
        )
        assert proxy.lost == 2
    assert jobs_of(client, "lost") == [job.id]


@pytest.mark.parametrize("recommended", [False, True])
def test_an_answer_cut_anywhere_makes_one_job(client, proxy, training_file, recommended):
    headers = {"Authorization": "Bearer key-of-a-test"}
    with httpx2.Client(base_url=f"http://{proxy.address}", headers=headers, timeout=60) as http:
        for place in (0, 1, 17, 150, 400, 700):
            asked = body(training_file, f"{recommended} {place}")
            if recommended:
                del asked["finetree"]
            proxy.losses = [place]
            with pytest.raises(httpx2.TransportError):
                http.post(JOBS, json=asked)
            answer = http.post(JOBS, json=asked, headers={"x-stainless-retry-count": "1"})
            assert answer.status_code == 200, answer.text
            assert jobs_of(client, f"{recommended} {place}") == [answer.json()["id"]]


def test_repetitions_at_the_same_time_make_one_job(client, second_address, address, training_file, monkeypatch):
    monkeypatch.setattr(create, "REPEAT_SECONDS", float("inf"))  # the suite's clock is not that of the doors
    asked = body(training_file, "same time")

    def post(number: int) -> str:
        base = address if number % 2 else second_address
        headers = {"x-stainless-retry-count": str(number + 1), "Authorization": "Bearer key-of-a-test"}
        return httpx2.post(f"http://{base}{JOBS}", json=asked, headers=headers, timeout=60).json()["id"]

    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(post, range(8)))
    assert [*made] == jobs_of(client, "same time")


def test_first_attempts_make_a_job_each(client, http, training_file):
    asked = body(training_file, "twice")
    headers = {"Authorization": "Bearer key-of-a-test", "x-stainless-retry-count": "0"}
    made = [http.post(JOBS, json=asked, headers=headers).json()["id"] for _ in range(3)]
    assert len(set(made)) == 3
    assert jobs_of(client, "twice") == made[::-1]


def test_another_caller_or_another_body_is_another_request(client, http, training_file):
    asked = body(training_file, "others")
    again = {"x-stainless-retry-count": "1"}
    first = http.post(JOBS, json=asked, headers={"Authorization": "Bearer one"}).json()["id"]
    assert http.post(JOBS, json=asked, headers={**again, "Authorization": "Bearer two"}).json()["id"] != first
    other = {**asked, "seed": 1}
    assert http.post(JOBS, json=other, headers={**again, "Authorization": "Bearer one"}).json()["id"] != first
    assert http.post(JOBS, json=asked, headers={**again, "Authorization": "Bearer one"}).json()["id"] == first


def test_an_idempotency_key_holds_for_ever_and_for_one_body(client, http, second_address, training_file):
    asked = body(training_file, "keyed")
    headers = {"Idempotency-Key": "nightly-2026-11-28", "Authorization": "Bearer key-of-a-test"}
    first = http.post(JOBS, json=asked, headers=headers).json()["id"]
    elsewhere = httpx2.post(f"http://{second_address}{JOBS}", json=asked, headers=headers, timeout=60)
    assert elsewhere.json()["id"] == first == http.post(JOBS, json=asked, headers=headers).json()["id"]
    answer = http.post(JOBS, json={**asked, "seed": 3}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "IDEMPOTENCY_KEY_REUSED")
    assert jobs_of(client, "keyed") == [first]


def test_a_lost_upload_makes_one_file(client, proxy):
    row = b'{"messages": [{"role": "user", "content": "lost?"}, {"role": "assistant", "content": "no"}]}\n'
    with openai.OpenAI(base_url=f"http://{proxy.address}/v1", api_key="key-of-a-test", max_retries=1) as cut:
        proxy.losses = [0]
        file = cut.files.create(file=("lost.jsonl", row), purpose="fine-tune")
    assert [each.id for each in client.files.list() if each.filename == "lost.jsonl"] == [file.id]
