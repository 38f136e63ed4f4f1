# SPDX-License-Identifier: Apache-2.0
"""docs/examples/fastapi_service.py, served by uvicorn before the real recommender and estimator."""

import json
import os
import re
import select
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from finetree_cli.backends.suite import Suite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


class Desk:
    """The running service."""

    def __init__(self, address: str) -> None:
        self.address = address

    def post(self, path: str, body: Any) -> tuple[int, Any, Any]:
        """Status, document and headers of an answer."""
        request = urllib.request.Request(
            f"{self.address}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer), answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error), error.headers


def served(environment: Any, addresses: dict[str, str]) -> Iterator[Desk]:
    """The service on a free port, until the test is done."""
    given = {f"FINETREE_{name.upper()}_ADDRESS": address for name, address in addresses.items()}
    words = (
        "-m",
        "uvicorn",
        "--app-dir",
        str(environment.examples),
        "fastapi_service:app",
        "--port",
        "0",
        "--no-access-log",
    )
    process = environment.start(*words, **given)
    said = ""
    try:
        while (found := re.search(r"running on (http://\S+)", said)) is None:
            assert process.stderr is not None
            assert select.select([process.stderr], [], [], 60)[0], said
            # Not by lines: what a line's reader has taken in advance does not show in the pipe any more.
            part = os.read(process.stderr.fileno(), 1 << 16).decode()
            assert part, said
            said += part
        yield Desk(found[1])
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture(scope="module")
def desk(environment: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with Suite(tmp_path_factory.mktemp("suite"), extra={"trainer": ("--no-prewarm",)}) as suite:
        yield from served(environment, suite.addresses)


QUESTION = {"model": "llama-3.1-8b", "gpu": "rtx-4090", "examples": 2000, "tokens_per_example": 300}


def test_what_is_recommended_passes_a_wide_gate_and_fails_a_narrow_one(desk: Desk) -> None:
    status, answer, _ = desk.post("/recommendations", QUESTION | {"quality": "important"})
    assert (status, answer["trains"]) == (200, True), answer
    assert answer["estimate"]["device_bytes"]["expected"] > 1e9
    wide = {"cost": "500 USD", "duration_seconds": 1e6, "method": ["lora", "qlora"]}
    status, passed, _ = desk.post("/gates", {"spec": answer["spec"], "limits": wide})
    assert (status, passed["passed"]) == (200, True), passed
    assert len(passed["checks"]) == 4
    status, failed, _ = desk.post("/gates", {"spec": answer["spec"], "limits": {"cost": "0.01 USD"}})
    assert (status, failed["passed"]) == (200, False)
    assert {check["verdict"] for check in failed["checks"]} == {"pass", "fail"}


def test_errors_have_a_status_a_reason_and_the_fields_at_fault(desk: Desk) -> None:
    status, answer, _ = desk.post("/recommendations", QUESTION | {"gpu": "rtx-9999"})
    assert (status, answer["error"]["reason"]) == (404, "ACCELERATOR_NOT_FOUND")
    status, answer, _ = desk.post("/gates", {"spec": {"model": {"nam": "x"}}, "limits": {}})
    assert status == 422
    assert answer["error"]["fields"][0]["field"] == "model.nam"
    status, _, _ = desk.post("/recommendations", QUESTION | {"quality": "splendid"})
    assert status == 422


def test_a_suite_that_is_not_there_is_a_503_that_says_when_to_come_back(environment: Any) -> None:
    nowhere = dict.fromkeys(("recommender", "estimator", "trainer"), "127.0.0.1:1")
    for desk in served(environment, nowhere):
        status, answer, headers = desk.post("/recommendations", QUESTION)
        assert (status, int(headers["Retry-After"])) == (503, 5)
        # Where the suite listens is no business of whoever asks.
        assert "127.0.0.1" not in answer["error"]["message"]
