# SPDX-License-Identifier: Apache-2.0
"""What every client of the contract must do, whatever its language: one set of tests for all of them.

A client is a program: `CLIENT [--recommender=URL …] COMMAND WORD…` prints one JSON object. A 64-bit integer is printed
as {"int64": "123"}, which only a client can do that has it as an integer. What it found is compared with what the
Python SDK finds, or with what the services hold.
"""

import contextlib
import hashlib
import json
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import finetree
import grpc
import pytest
from finetree_api.types.v1 import method_pb2
from finetree_chaos import chaos
from google.protobuf import json_format
from trainer_harness import ROWS, jsonl

RUN_SECONDS = 60
LARGEST = 2**53 - 1
MODEL, ACCELERATOR = "llama-3.1-8b", "rtx-4090"
WEIGHTS = bytes(range(256)) * 4096
"""What the scripted worker's adapter holds."""


def int64(value: dict[str, str]) -> int:
    return int(value["int64"])


@dataclass(frozen=True)
class Program:
    """A client in another language, and the services that it is told of."""

    command: tuple[str, ...]
    services: Any

    def start(self, *words: str, timeout: float = 40, **addresses: str) -> subprocess.Popen[str]:
        """Start a command; `addresses` are those of services other than the running ones, or of a CA and a token."""
        places = {name: f"http://{getattr(self.services, name)}" for name in ("recommender", "estimator", "trainer")}
        flags = [f"--{name}={value}" for name, value in (places | addresses).items()]
        command = [*self.command, f"--timeout={timeout}", *flags, *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __call__(self, *words: str, **options: Any) -> dict[str, Any]:
        """Run a command; return what it printed."""
        return finish(self.start(*words, **options))

    def refused(self, *words: str, **options: Any) -> dict[str, Any]:
        """Run a command that a service must refuse; return the error as the client understood it."""
        error: dict[str, Any] = finish(self.start(*words, **options), status=1)["error"]
        return error


def finish(process: subprocess.Popen[str], status: int = 0) -> dict[str, Any]:
    """Wait for a client's end; return what it printed."""
    try:
        out, err = process.communicate(timeout=RUN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert process.returncode == status, f"{out}\n{err}"
    found: dict[str, Any] = json.loads(out)
    return found


class ClientConformance:
    """The tests; a language's own class inherits them and has a fixture `client` that gives its Program."""

    @pytest.fixture
    def dataset(self, sdk, tmp_path) -> str:
        file = tmp_path / "rows.jsonl"
        file.write_bytes(jsonl(ROWS))
        return str(sdk.upload_dataset(file).name)

    @pytest.fixture
    def job(self, client, services, dataset) -> Callable[..., str]:
        """`job(**script)`: the name of a new job, made by the client under test."""

        def make(**script: object) -> str:
            services.script(**script)
            made = client("train", dataset, "tiny")
            assert made["state"] == "QUEUED"
            return str(made["name"])

        return make

    def test_it_reads_names_and_limits_of_the_servers(self, client):
        servers = client("info")["servers"]
        assert [server["service"] for server in servers] == [
            f"finetree-{name}" for name in ("recommender", "estimator", "trainer")
        ]
        assert int64(servers[2]["limits"]["max_request_bytes"]) == 512 * 1024

    def test_its_recommendation_is_that_of_the_sdk(self, client, sdk):
        found = client("recommend", MODEL, ACCELERATOR)
        profile = {"examples": 1000, "total_tokens": 200_000}
        answer = sdk.recommend(
            {
                "model": {"name": MODEL},
                "hardware": {"accelerator": ACCELERATOR},
                "dataset_profile": profile,
                "quality": "QUALITY_NEED_IMPORTANT",
            }
        )
        assert found["method"] == method_pb2.Method.Name(answer.verdict.method).removeprefix("METHOD_")
        assert found["headline"] == answer.verdict.headline
        assert found["plan_digest"] == answer.plan_digest
        assert json_format.ParseDict(found["spec"], type(answer.spec)()) == answer.spec

    def test_its_estimate_is_that_of_the_sdk(self, client, sdk, tmp_path):
        spec = {"model": {"name": MODEL}, "lora": {"rank": 16}, "hardware": {"accelerator": ACCELERATOR}}
        file = tmp_path / "spec.json"
        file.write_text(json.dumps(spec), encoding="utf-8")
        found = client("estimate", str(file))
        answer = sdk.estimate(spec, dataset_profile={"examples": 1000, "total_tokens": 200_000})
        assert found["fit"] in ("FITS", "TIGHT")
        assert found["device_bytes"] == pytest.approx(answer.memory.device_bytes.expected)
        assert found["total_seconds"] == pytest.approx(answer.time.total_seconds.expected)
        assert int64(found["optimizer_steps"]) == answer.optimizer_steps > 0
        assert int64(found["total_parameters"]) == answer.total_parameters > 2**32

    def test_an_upload_goes_on_after_a_cut(self, client, services, sdk, tmp_path):
        file = tmp_path / "large.jsonl"
        # Others may have uploaded the same rows: content in a project is one dataset.
        file.write_bytes(jsonl([{"prompt": uuid.uuid4().hex * 30, "completion": "a"} for _ in range(4000)]))
        with chaos(services.trainer, seed=3, cuts=3, least=150, most=500) as proxy:
            found = client("upload", str(file), trainer=f"http://127.0.0.1:{proxy.port}")
            assert proxy.made == 3
        assert found["state"] == "READY"
        assert found["failures"] >= 3
        kept = sdk.get_dataset(found["name"])
        assert kept.sha256 == found["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert kept.committed_bytes == int64(found["committed_bytes"]) == file.stat().st_size

    def test_every_event_arrives_once_over_cut_connections(self, client, services, sdk, job):
        name = job(steps=80, delay=0.02)
        with chaos(services.trainer, seed=1, cuts=4, least=600, most=2500) as proxy:
            found = client("watch", name, trainer=f"http://127.0.0.1:{proxy.port}")
            assert proxy.made == 4
        assert found["failures"] >= 4
        logged = [(event.seq, event.WhichOneof("payload")) for event in sdk.job(name).list_events(last=1000)]
        assert [int64(seq) for seq in found["seqs"]] == [seq for seq, _ in logged] == [*range(1, len(logged) + 1)]
        assert [snake(payload) for payload in found["payloads"]] == [payload for _, payload in logged]
        assert found["payloads"][-1] == "terminal"
        assert found["state"] == "SUCCEEDED"
        rest = client("watch", name, str(len(logged) - 3))
        assert [int64(seq) for seq in rest["seqs"]] == [seq for seq, _ in logged[-3:]]

    def test_a_connection_that_falls_silent_is_given_up(self, client, services, job):
        name = job(steps=40, delay=0.1)
        with chaos(services.trainer) as proxy:
            watching = client.start("watch", name, trainer=f"http://127.0.0.1:{proxy.port}")
            wait_until(lambda: proxy.connections or watching.poll() is not None)
            proxy.blackhole()
            found = finish(watching)
        assert [int64(seq) for seq in found["seqs"]] == [*range(1, len(found["seqs"]) + 1)]
        assert found["state"] == "SUCCEEDED"
        assert found["failures"] >= 1

    def test_a_request_id_makes_one_job(self, client, services, dataset):
        services.script(steps=1)
        key = uuid.uuid4().hex
        first, second = (client("train", dataset, "tiny", key)["name"] for _ in range(2))
        assert first == second
        client("watch", first)  # its worker reads the script when it starts: no later test may change that before

    def test_cancel_ends_a_job(self, client, job):
        name = job(steps=2000, delay=0.02)
        found = client("cancel", name)
        assert found["state"] == "CANCELLED"
        assert found["payloads"][-1] == "terminal"

    def test_an_artifact_arrives_whole_over_cut_connections(self, client, services, job, tmp_path):
        name = job(steps=1, artifact=True)
        client("watch", name)
        with chaos(services.trainer, seed=5, cuts=3, least=2000, most=400_000) as proxy:
            found = client("download", name, str(tmp_path / "out"), trainer=f"http://127.0.0.1:{proxy.port}")
            assert proxy.made == 3
        assert found["failures"] >= 3
        (file,) = found["files"]
        assert (file["path"], int64(file["size_bytes"])) == ("weights.bin", len(WEIGHTS))
        assert file["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
        assert (tmp_path / "out/weights.bin").read_bytes() == WEIGHTS

    def test_wrong_fields_are_named(self, client, sdk):
        found = client.refused("recommend", "m" * 300, ACCELERATOR)
        with pytest.raises(finetree.InvalidArgument) as refused:
            sdk.recommend({"model": {"name": "m" * 300}})
        assert (found["code"], found["reason"]) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
        assert found["message"] == refused.value.message
        assert [(each["field"], each["description"]) for each in found["violations"]] == [
            (each.field, each.description) for each in refused.value.violations
        ]
        assert [each["field"] for each in found["violations"]] == ["model.name"]

    def test_a_reason_and_its_metadata_are_decoded_and_the_largest_integer_is_exact(self, client, sdk, job):
        name = job(steps=1)
        client("watch", name)
        found = client.refused("watch", name, str(LARGEST))
        assert (found["code"], found["reason"]) == ("OUT_OF_RANGE", "FUTURE_SEQ")
        assert found["metadata"]["last_seq"] == str(sdk.job(name).refresh().last_seq)
        assert str(LARGEST) in found["message"]
        missing = client.refused("watch", str(uuid.uuid4()))
        assert (missing["code"], missing["reason"]) == ("NOT_FOUND", "JOB_NOT_FOUND")

    def test_a_full_queue_says_when_to_try_again(self, client, services, sdk, dataset):
        services.script(steps=2000, delay=0.02)
        made = []
        try:
            for _ in range(6):
                found = finish_either(client.start("train", dataset, "tiny", timeout=5))
                if "error" in found:
                    break
                made.append(found["name"])
            error = found["error"]
            assert (error["code"], error["reason"]) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
            assert error["retry_after_seconds"] == 30
        finally:
            for name in reversed(made):
                sdk.job(name).cancel()
            for name in made:
                sdk.job(name).wait(timeout=60)
        assert 2 <= len(made) <= 3

    def test_a_deadline_ends_a_call_to_a_server_that_says_nothing(self, client):
        with silent() as address:
            started = time.monotonic()
            found = client.refused("recommend", MODEL, ACCELERATOR, recommender=f"http://{address}", timeout=0.5)
        assert (found["code"], found["reason"]) == ("DEADLINE_EXCEEDED", "")
        assert time.monotonic() - started < 20

    @pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
    def test_it_speaks_tls_and_shows_its_token(self, client, tmp_path):
        with guarded(tmp_path) as (port, certificate, tokens):
            place = f"https://localhost:{port}"
            places = {"recommender": place, "estimator": place, "trainer": place}
            found = client.refused("recommend", MODEL, ACCELERATOR, ca=str(certificate), token="s3cret", **places)
        assert found["code"] == "UNIMPLEMENTED"
        assert set(tokens) == {"Bearer s3cret"}


def finish_either(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a client that may be refused; return what it printed."""
    out, err = process.communicate(timeout=RUN_SECONDS)
    assert process.returncode in (0, 1), f"{out}\n{err}"
    found: dict[str, Any] = json.loads(out)
    return found


def snake(name: str) -> str:
    """The name of a oneof's member as the .proto has it."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """An address that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


class Tokens(grpc.ServerInterceptor):  # type: ignore[misc]
    """Notes the token of every call."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def intercept_service(self, continuation: Any, call: Any) -> Any:
        self.seen.append(dict(call.invocation_metadata)["authorization"])
        return continuation(call)


@contextlib.contextmanager
def guarded(folder: Path) -> Iterator[tuple[int, Path, list[str]]]:
    """A server that speaks TLS, knows no rpc, and notes tokens; the value holds port, certificate and tokens."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        [*command, "-keyout", key, "-out", certificate, "-days", "1", *names], check=True, capture_output=True
    )
    tokens = Tokens()
    server = grpc.server(futures.ThreadPoolExecutor(2), interceptors=[tokens], options=[("grpc.so_reuseport", 0)])
    pair = (key.read_bytes(), certificate.read_bytes())
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([pair]))
    server.start()
    try:
        yield port, certificate, tokens.seen
    finally:
        server.stop(None).wait()
