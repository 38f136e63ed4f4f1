# SPDX-License-Identifier: Apache-2.0
"""The program as a user starts it: with --once, and as a server.

A start costs half a second. What depends on the process (exit code, streams, start and stop) is asked of one; every
other answer of --once is asked of the same `main` in this process.
"""

import asyncio
import io
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import grpc
import pytest
from finetree_api.estimator.v1 import catalog_pb2, check_plan_pb2, estimator_pb2, estimator_pb2_grpc
from finetree_estimator.__main__ import main
from finetree_runtime.money import to_money
from google.protobuf import json_format, proto
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2

pytestmark = pytest.mark.service_alone("process")
PROGRAM = [sys.executable, "-m", "finetree_estimator"]
HEADER = b"price_id,accelerator,provider,hourly_price,currency,date,source\n"


def once(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, "--once", *arguments], input=text, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def here(monkeypatch, capsysbinary) -> Callable[..., SimpleNamespace]:
    """`here(content, *arguments)`: the exit code, stdout and stderr of --once, without a process of its own."""

    def run(content: bytes | str, *arguments: str) -> SimpleNamespace:
        sent = content.encode() if isinstance(content, str) else content
        monkeypatch.setattr(sys, "argv", ["finetree_estimator", "--once", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sent)))
        capsysbinary.readouterr()  # the log of a server in this process
        try:
            code = main()
        except SystemExit as ended:
            code = ended.code
        binary, error = capsysbinary.readouterr()
        return SimpleNamespace(returncode=code, binary=binary, stdout=binary.decode("latin-1"), stderr=error.decode())

    return run


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
        ("null", "MALFORMED_REQUEST"),
        ("[" * 100_000, "MALFORMED_REQUEST"),
        ('{"spec": {"color": "red"}}', "MALFORMED_REQUEST"),
        ("{}", "INVALID_REQUEST"),
        ('{"spec": {"model": {"name": "nope"}, "lora": {}, "hardware": {"accelerator": "t4"}}}', "MODEL_NOT_FOUND"),
    ],
)
def test_once_refuses_with_a_status_on_stderr(here, text, reason):
    result = here(text)

    assert (result.returncode, result.stdout) == (2, "")
    assert json.loads(result.stderr)["details"][0]["reason"] == reason


@pytest.mark.parametrize(("arguments", "text"), [((), "{}"), (("--price-book", "missing"), ""), (("--color",), "")])
def test_the_process_of_a_refusal_ends_with_2_and_writes_to_stderr_alone(arguments, text):
    result = once(text, *arguments)

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("flag", ["--price-book", "--model-root"])
def test_a_setting_that_cannot_be_used_is_named(here, tmp_path, flag):
    result = here("{}", flag, str(tmp_path / "missing"))

    assert result.returncode == 2
    assert result.stderr.startswith(f"SETTING_INVALID: {flag} (FINETREE_ESTIMATOR_")
    assert len(result.stderr.splitlines()) == 1


def test_a_users_price_book_replaces_ours(here, tmp_path, request_of):
    book = tmp_path / "mine.csv"
    book.write_text(
        "price_id,accelerator,provider,hourly_price,currency,date,source\nmine,rtx-4090,me,2.5,CHF,2026-11-01,contract\n"
    )
    result = here(json_format.MessageToJson(request_of()), "--price-book", str(book))
    answer = json.loads(result.stdout)["estimate"]

    assert (answer["cost"]["price_id"], answer["cost"]["total"]["currency_code"]) == ("mine", "CHF")
    assert answer["revision"]["price_book"]["id"] == "mine"


def test_a_users_price_book_may_extend_ours(here, tmp_path, request_of):
    book = tmp_path / "mine.csv"
    book.write_text(
        "price_id,accelerator,provider,hourly_price,currency,date,source\nmine,NVIDIA L40S,me,0.1,USD,2026-11-01,ours\n"
    )
    arguments = ("--price-book", str(book), "--price-book-extends")
    ours = here(json_format.MessageToJson(request_of()), *arguments)
    mine = here(json_format.MessageToJson(request_of({"hardware": {"accelerator": "l40s"}})), *arguments)

    assert json.loads(ours.stdout)["estimate"]["cost"]["provider"] == "lium"
    answer = json.loads(mine.stdout)["estimate"]
    assert answer["cost"]["price_id"] == "mine"
    assert answer["revision"]["price_book"]["id"].endswith("+mine")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"price_id,accelerator\n", "line 1: the column 'provider' is missing"),
        (
            HEADER + b"mine,rtx-4091,me,1,USD,2026,x\n",
            "line 2: accelerator: no 'rtx-4091' in the catalog; did you mean",
        ),
        (HEADER + b"mine,t4,me,nan,USD,2026,x\n", "line 2: hourly_price: 'nan'"),
        (HEADER + b"mine,t4,me,1,USD,yesterday,x\n", "line 2: date: 'yesterday'"),
        (b"\xff\xfe", "line 1: not UTF-8"),
    ],
)
def test_a_broken_price_book_stops_the_start_and_names_the_line(here, tmp_path, content, complaint):
    book = tmp_path / "mine.csv"
    book.write_bytes(content)
    result = here("{}", "--price-book", str(book))

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("SETTING_INVALID: --price-book (FINETREE_ESTIMATOR_PRICE_BOOK): " + complaint)
    assert len(result.stderr.splitlines()) == 1
    assert str(tmp_path) not in result.stderr


def test_to_extend_needs_a_book(here):
    result = here("{}", "--price-book-extends")

    assert result.returncode == 2
    assert "--price-book-extends" in result.stderr
    assert "needs --price-book" in result.stderr


def test_the_server_takes_less_than_a_second_to_start_and_stops_on_sigterm(tmp_path, request_of):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [*PROGRAM, "--address", f"unix:{tmp_path}/s", "--log-level", "error"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            ready = json.loads(server.stdout.readline())
            with grpc.insecure_channel(ready["address"]) as channel:
                stub = estimator_pb2_grpc.EstimatorServiceStub(channel)
                assert stub.EstimateRun(request_of(), timeout=60).estimate.plan_digest.startswith("sha256:")
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=60) == 0
        finally:
            server.kill()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time, from start to end, does not depend on what else runs here; the wall clock would.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    assert ready["service"] == "finetree-estimator"


def delimited(*messages: Message) -> bytes:
    out = io.BytesIO()
    for message in messages:
        proto.serialize_length_prefixed(message, out)
    return out.getvalue()


def replies(method: str, content: bytes) -> list[Message]:
    """The responses in a program's output, and a google.rpc.Status in place of each one that was refused."""
    kind = GetMessageClass(
        estimator_pb2.DESCRIPTOR.services_by_name["EstimatorService"].methods_by_name[method].output_type
    )
    source, found = io.BytesIO(content), []
    while (status := proto.parse_length_prefixed(status_pb2.Status, source)) is not None:
        found.append(status if status.code else proto.parse_length_prefixed(kind, source))
    return found


def ask(method: str, *requests: Message) -> tuple[int, list[Message]]:
    """Exit code and replies of a process."""
    command = [*PROGRAM, "--once", "--once-method", method, "--once-format", "delimited"]
    done = subprocess.run(command, input=delimited(*requests), capture_output=True, timeout=60, check=False)
    assert done.stderr == b""
    return done.returncode, replies(method, done.stdout)


HARDWARE = ({"accelerator": "rtx-4090"}, {"accelerator": "t4"}, {"cpu": {"cores": 2, "memory_bytes": 16 << 30}})
SPECS = [
    {"model": {"name": model}, method: {}, "hardware": HARDWARE[(size + column) % 3]}
    for size, model in enumerate(("smollm2-135m-instruct", "llama-3.1-8b", "llama-3-70b"))
    for column, method in enumerate(("full", "lora", "qlora", "prefix", "adapter"))
]
"""Every pair of a model, a method and a hardware: a Latin square has each of them once."""


async def test_many_requests_of_each_kind_are_answered_as_served(stub, request_of, here):
    runs = [request_of(spec) for spec in SPECS] + [request_of(spec, view="ESTIMATE_VIEW_FULL") for spec in SPECS[::2]]
    policy = check_plan_pb2.PlanPolicy(
        limits=[
            check_plan_pb2.PolicyLimit(metric=check_plan_pb2.POLICY_METRIC_COST, max_money=to_money(1, "USD")),
            check_plan_pb2.PolicyLimit(metric=check_plan_pb2.POLICY_METRIC_DEVICE_BYTES, max=8 << 30),
            check_plan_pb2.PolicyLimit(metric=check_plan_pb2.POLICY_METRIC_FIT),
        ]
    )
    checks = [check_plan_pb2.CheckPlanRequest(run=run, policy=policy) for run in runs[::2]]
    rows = [estimator_pb2.BatchEstimateRow(key=str(number), request=run) for number, run in enumerate(runs)]
    asked = {
        "EstimateRun": runs,
        "CheckPlan": checks,
        "BatchEstimateRuns": [estimator_pb2.BatchEstimateRunsRequest(rows=rows)],
        "ListAccelerators": [catalog_pb2.ListAcceleratorsRequest(page_size=1000)],
    }
    for method, requests in asked.items():
        served = [await getattr(stub, method)(request) for request in requests]
        flags = ("--once-method", method, "--once-format", "delimited")
        done = await asyncio.to_thread(here, delimited(*requests), *flags)
        assert (done.returncode, done.stderr) == (0, "")
        assert replies(method, done.binary) == served, method
        if method == "EstimateRun":
            assert ask(method, *requests) == (0, served)


async def test_a_refused_request_is_a_status_as_served_and_the_next_is_answered(stub, request_of, explain):
    unknown, good = request_of({"model": {"name": "nope"}}), request_of()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.EstimateRun(unknown)
    code, (first, second) = ask("EstimateRun", unknown, good)

    assert explain(first) == explain(caught.value)
    assert (code, second) == (0, await stub.EstimateRun(good))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{}", "MALFORMED_REQUEST"),
        (b"\x09short", "MALFORMED_REQUEST"),
        (b"\xff", "MALFORMED_REQUEST"),
        (b"\xff" * 12, "MALFORMED_REQUEST"),
        (b"\x80\x80\x80\x01" + b"\xa2\x06\xfb\xff\x7f" + bytes(0x1FFFFB), "REQUEST_TOO_LARGE"),
    ],
    ids=["json", "cut", "half a length", "no length", "too large"],
)
def test_what_holds_no_request_is_refused_with_a_status(here, content, reason, explain):
    done = here(content, "--once-format", "delimited")

    (status,) = replies("EstimateRun", done.binary)
    assert (done.returncode, done.stderr) == (2, "")
    assert explain(status).reason == reason


def test_lines_are_answered_line_by_line_with_errors_in_place(here, request_of):
    good = json_format.MessageToJson(request_of(), indent=None)
    result = here(f'{good}\n{{\n\n{{"spec": {{}}}}\n{good}\n', "--once-format", "lines")
    answers = [json.loads(line) for line in result.stdout.splitlines()]

    assert (result.returncode, result.stderr) == (0, "")
    assert [next(iter(answer)) for answer in answers] == ["estimate", "error", "error", "estimate"]
    assert answers[0] == answers[3]
    assert [answer["error"]["details"][0]["reason"] for answer in answers[1:3]] == [
        "MALFORMED_REQUEST",
        "INVALID_REQUEST",
    ]


def test_a_plan_is_checked_once(here, request_of):
    request = check_plan_pb2.CheckPlanRequest(run=request_of())
    request.policy.limits.add(metric=check_plan_pb2.POLICY_METRIC_COST).max_money.CopyFrom(to_money(1e-9, "USD"))
    result = here(json_format.MessageToJson(request), "--once-method", "CheckPlan")

    assert json.loads(result.stdout)["verdict"] == "CHECK_VERDICT_FAIL"
