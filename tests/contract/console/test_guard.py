# SPDX-License-Identifier: Apache-2.0
"""What stands before every request: who may send it, how much and how many at once, and what is passed on."""

import contextlib
import shutil
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import finetree
import grpc
import httpx2
import pytest
from finetree.testing import Script, Suite
from finetree_cli.backends.certificates.folder import renew
from finetree_console.server import protocol

ADDRESSES = ("recommender_address", "estimator_address", "trainer_address")
INFO, JOBS = "/trainer/v1/GetServerInfo", "/trainer/v1/ListJobs"
JSON = {"content-type": "application/json"}


def reason(response):
    return response.json()["error"]["reason"]


@pytest.fixture
def own(serve):
    """A console with settings of its own, in front of a fake suite of its own."""
    with contextlib.ExitStack() as stack:

        def start(**settings: Any) -> tuple[Suite, httpx2.Client]:
            suite = stack.enter_context(Suite())
            suite.datasets.files["rows.jsonl"] = b'{"text": "a"}\n'
            address = stack.enter_context(serve(suite, **settings))
            return suite, stack.enter_context(httpx2.Client(base_url=f"http://{address}", timeout=60))

        yield start


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8080", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.nip.io", 421),
        ("", 400),
    ],
)
def test_the_host_is_an_address_or_localhost(http, host, status):
    assert http.get(INFO, headers={"host": host}).status_code == status


def test_further_hosts_are_named(own):
    _, http = own(allowed_hosts=("tuning.example",))
    assert http.get(INFO, headers={"host": "Tuning.Example:443"}).status_code == 200
    assert reason(http.get(INFO, headers={"host": "evil.example"})) == "HOST_NOT_ALLOWED"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:9999"}, 403),
        ({"origin": "http://localhost:8080"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),
        ({"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}, 200),
    ],
)
def test_web_pages_of_another_origin_are_refused(http, headers, status):
    response = http.get(INFO, headers={"host": "localhost:8080", **headers})
    assert response.status_code == status
    assert not [name for name in response.headers if name.startswith("access-control-")]


def test_a_form_is_no_json(http):
    refused = http.post(JOBS, data={"page_size": "1"})
    assert (refused.status_code, reason(refused)) == (415, "UNSUPPORTED_MEDIA_TYPE")


def test_a_token_is_asked_for(own):
    _, http = own(token="swordfish")
    refused = http.get(INFO)
    assert (refused.status_code, refused.headers["www-authenticate"], reason(refused)) == (
        401,
        "Bearer",
        "TOKEN_REQUIRED",
    )
    for wrong in ("Bearer sword", "Basic swordfish", "swordfish", "Bearer swordfish2"):
        assert http.get(INFO, headers={"authorization": wrong}).status_code == 401
    assert http.get(INFO, headers={"authorization": "bearer swordfish"}).status_code == 200
    assert http.get("/healthz").status_code == 200


class Recorder(grpc.GenericRpcHandler):
    """Answers every unary call with an empty message, and keeps its metadata."""

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}

    def service(self, handler_call_details):
        self.metadata = dict(handler_call_details.invocation_metadata)
        return grpc.unary_unary_rpc_method_handler(lambda *_: b"")


@pytest.fixture
def recorded(serve):
    """A console's settings in, the metadata of a call that was sent with headers out."""
    handler, pool = Recorder(), ThreadPoolExecutor(2)
    server = grpc.server(pool, [handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    def send(headers: dict[str, str], **settings: Any) -> dict[str, str]:
        addresses = dict.fromkeys(ADDRESSES, f"127.0.0.1:{port}")
        with serve(None, **addresses, **settings) as address:
            assert httpx2.get(f"http://{address}{INFO}", headers=headers, timeout=60).status_code == 200
        return handler.metadata

    yield send
    server.stop(None).wait()
    pool.shutdown()


SENT = {
    "authorization": "Bearer mine",
    "x-request-id": "r-17",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "cookie": "a=b",
}


def test_credentials_request_id_and_trace_go_to_the_service(recorded):
    passed = recorded(SENT)
    assert {name: passed.get(name) for name in SENT} == {**SENT, "cookie": None}


def test_a_token_of_the_console_stays_with_it(recorded):
    passed = recorded(SENT, token="mine")
    assert "authorization" not in passed
    assert passed["x-request-id"] == "r-17"


@pytest.mark.parametrize("size", ["stated", "found out"])
def test_a_body_is_at_most_so_large(own, size):
    _, http = own(max_body_bytes=1000)
    content = b"[" * 1001
    sent = content if size == "stated" else iter([content])
    refused = http.post(JOBS, content=sent, headers=JSON)
    assert (refused.status_code, reason(refused)) == (413, "REQUEST_TOO_LARGE")
    assert refused.json()["error"]["metadata"] == {"limit_bytes": "1000"}


def test_calls_have_a_limit_and_probes_have_not(own):
    suite, http = own(max_calls=1)
    held = suite.faults.hold("ListJobs")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(http.get, JOBS)
        wait_for(lambda: suite.faults.calls("ListJobs"))
        refused = http.get(INFO)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert http.get("/readyz").status_code == 200
        held.set()
        assert first.result().status_code == 200
    assert http.get(INFO).status_code == 200


def test_a_call_has_the_time_that_its_header_gives(own):
    suite, http = own()
    suite.faults.hold("ListJobs")
    late = http.get(JOBS, headers={"x-request-timeout": "0.2"})
    assert late.status_code == 504
    assert suite.faults.calls("ListJobs")[0].seconds <= 0.25  # gRPC sends a deadline rounded up
    for wrong in ("0", "-1", "nan", "1e9", "soon"):
        assert reason(http.get(JOBS, headers={"x-request-timeout": wrong})) == "INVALID_REQUEST"


def test_hanging_up_cancels_the_call(own):
    suite, http = own(max_calls=1)
    suite.faults.hold("ListJobs")
    with pytest.raises(httpx2.ReadTimeout):
        http.get(JOBS, timeout=0.3)
    wait_for(lambda: http.get(INFO).status_code == 200)  # its place is free again


def test_a_call_that_writes_is_sent_under_one_key(own):
    suite, http = own()
    body = {"job": {"train": {"spec": {"model": {"name": "tiny"}, "lora": {}, "dataset": {"path": "rows.jsonl"}}}}}
    names = [http.post("/trainer/v1/CreateJob", json=body, headers={"idempotency-key": "k"}) for _ in range(2)]
    assert len({response.json()["job"]["name"] for response in names}) == 1
    suite.faults.fail_next("CreateJob", finetree.Unavailable("gone", reason="SERVER_STOPPING"))
    assert http.post("/trainer/v1/CreateJob", json=body).status_code == 200, "the SDK's retry"
    assert len(http.get(JOBS).json()["jobs"]) == 2


def test_a_service_that_is_away(serve):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        away = f"127.0.0.1:{taken.getsockname()[1]}"
        addresses = dict.fromkeys(ADDRESSES, away)
        with serve(None, **addresses) as address:
            refused = httpx2.get(f"http://{address}{INFO}", timeout=60)
            assert (refused.status_code, reason(refused)) == (503, "SERVICE_UNREACHABLE")
            ready = httpx2.get(f"http://{address}/readyz", timeout=60)
            assert (ready.status_code, ready.json()["status"]) == (503, "NOT_SERVING")
            assert set(ready.json()["services"]) == {"recommender", "estimator", "trainer"}
            assert httpx2.get(f"http://{address}/healthz", timeout=60).json()["status"] == "SERVING"


def test_a_service_that_asks_for_a_token_does_answer(own):
    suite, http = own()
    for _ in range(3):
        suite.faults.fail_next("GetServerInfo", finetree.Unauthenticated("no token", reason="TOKEN_MISSING"))
    ready = http.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "SERVING")
    assert [each["reason"] for each in ready.json()["services"].values()] == ["TOKEN_MISSING"] * 3


@pytest.mark.parametrize(
    "begun", [b"", b"GET / HTTP/1.1\r\nHost: loc", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /"]
)
def test_who_never_ends_a_head_is_cut_off(own, monkeypatch, begun):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    _, http = own()
    with socket.create_connection((http.base_url.host, http.base_url.port), timeout=60) as connection:
        connection.sendall(begun)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(4096):
                pass


def test_who_takes_nothing_of_an_answer_is_cut_off(own, monkeypatch):
    monkeypatch.setattr(protocol, "STALLED_SECONDS", 0.2)
    suite, http = own(max_streams=1, send_buffer=16_384)
    suite.trainer.script = Script(steps=2000)
    body = {"job": {"train": {"spec": {"model": {"name": "tiny"}, "lora": {}, "dataset": {"path": "rows.jsonl"}}}}}
    name = http.post("/trainer/v1/CreateJob", json=body).json()["job"]["name"]
    watch = f"/trainer/v1/WatchJob?name={name}"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((http.base_url.host, http.base_url.port))
        connection.sendall(f"GET {watch} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert connection.recv(12) == b"HTTP/1.1 200"
        wait_for(lambda: stream_status(http, watch) == 200)  # its place is free: it was cut off


def test_a_head_is_at_most_so_large(http):
    response = http.get(INFO, headers={"x-long": "x" * 100_000})
    # It depends on how the head arrives who refuses it: the server while it reads, or the console afterwards.
    assert response.status_code in (400, 431)
    assert response.status_code == 400 or reason(response) == "HEAD_TOO_LARGE"


def stream_status(http, path) -> int:
    with http.stream("GET", path) as response:
        return response.status_code


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def test_an_address_that_others_reach_speaks_tls_and_asks_for_the_token(suite, serve, authority_in, tmp_path):
    folder = authority_in(tmp_path)
    cert, key = folder / "server.pem", folder / "server.key"
    with serve(suite, host="0.0.0.0", tls_cert=cert, tls_key=key, token="swordfish") as address:
        url = f"https://127.0.0.1:{address.rpartition(':')[2]}{INFO}"
        trusting = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        with httpx2.Client(verify=trusting, timeout=60) as http:
            assert http.get(url).status_code == 401
            assert http.get(url, headers={"authorization": "Bearer swordfish"}).status_code == 200
        with pytest.raises(httpx2.TransportError):
            httpx2.get(url.replace("https", "http"), timeout=60)


def test_a_new_certificate_is_taken_and_open_connections_stay(suite, serve, authority_in, tmp_path, caplog):
    folder = authority_in(tmp_path / "tls")
    cert, key = folder / "server.pem", folder / "server.key"
    trusting = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    renewed = shutil.copytree(folder, tmp_path / "renewed")
    renew(renewed, 30, None)
    with serve(suite, tls_cert=cert, tls_key=key) as address, httpx2.Client(verify=trusting, timeout=60) as http:
        url = f"https://{address}{INFO}"
        assert http.get(url).status_code == 200
        before = served(address, trusting)
        (renewed / "server.pem").replace(cert)
        wait_for(lambda: "tls_reload_failed" in caplog.text)
        assert served(address, trusting) == before
        (renewed / "server.key").replace(key)
        wait_for(lambda: served(address, trusting) != before)
        assert http.get(url).status_code == 200
    assert caplog.text.count("tls_reload_failed") == 1


def served(address, context):
    """Certificate that a new connection gets."""
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), 60) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        return connection.getpeercert(binary_form=True)
