# SPDX-License-Identifier: Apache-2.0
"""The program as a user starts it: with --once, and as a server."""

import json
import resource
import signal
import subprocess
import sys

import grpc
import pytest
from finetree_api.estimator.v1 import estimator_pb2_grpc
from google.protobuf import json_format

PROGRAM = [sys.executable, "-m", "finetree_estimator"]


def once(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, "--once", *arguments], input=text, capture_output=True, text=True, timeout=30, check=False
    )


async def test_once_gives_the_served_answer_to_the_byte(stub, request_of):
    request = request_of()
    served = await stub.EstimateRun(request)
    result = once(json_format.MessageToJson(request))

    assert result.returncode == 0
    assert result.stderr == ""
    assert result.stdout == json_format.MessageToJson(served, preserving_proto_field_name=True) + "\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "MALFORMED_REQUEST"),
        ('{"spec": {"colour": "red"}}', "MALFORMED_REQUEST"),
        ("{}", "INVALID_REQUEST"),
        ('{"spec": {"model": {"name": "nope"}, "lora": {}, "hardware": {"accelerator": "t4"}}}', "MODEL_NOT_FOUND"),
    ],
)
def test_once_refuses_with_a_status_on_stderr(text, reason):
    result = once(text)

    assert (result.returncode, result.stdout) == (2, "")
    assert json.loads(result.stderr)["details"][0]["reason"] == reason


@pytest.mark.parametrize("flag", ["--price-book", "--model-root"])
def test_a_setting_that_cannot_be_used_is_named(tmp_path, flag):
    result = once("{}", flag, str(tmp_path / "missing"))

    assert result.returncode == 2
    assert result.stderr.startswith(f"SETTING_INVALID: {flag} (FINETREE_ESTIMATOR_")
    assert len(result.stderr.splitlines()) == 1


def test_a_users_price_book_replaces_ours(tmp_path, request_of):
    book = tmp_path / "mine.csv"
    book.write_text(
        "price_id,accelerator,provider,hourly_price,currency,date,source\nmine,rtx-4090,me,2.5,CHF,2026-11-01,contract\n"
    )
    result = once(json_format.MessageToJson(request_of()), "--price-book", str(book))
    answer = json.loads(result.stdout)["estimate"]

    assert (answer["cost"]["price_id"], answer["cost"]["currency_code"]) == ("mine", "CHF")
    assert answer["revision"]["price_book"]["id"] == "mine"


def test_the_server_takes_less_than_a_second_to_start_and_stops_on_sigterm(tmp_path, request_of):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [*PROGRAM, "--address", f"unix:{tmp_path}/s", "--log-level", "error"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            ready = json.loads(server.stdout.readline())
            with grpc.insecure_channel(ready["address"]) as channel:
                stub = estimator_pb2_grpc.EstimatorServiceStub(channel)
                assert stub.EstimateRun(request_of(), timeout=10).estimate.plan_digest.startswith("sha256:")
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=15) == 0
        finally:
            server.kill()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time, from start to end, does not depend on what else runs here; the wall clock would.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    assert ready["service"] == "finetree-estimator"
