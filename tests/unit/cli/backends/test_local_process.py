# SPDX-License-Identifier: Apache-2.0
"""Calls of a service in a child process: a small service that answers what it was sent, refuses, or crashes."""

import os

import pytest
from finetree import NotFound
from finetree_cli.backends.local_process import LocalService, require_installed
from finetree_cli.errors import BadInput, CliError, NotAvailable
from google.protobuf import wrappers_pb2

SERVICE = """
import os, sys
from google.protobuf import proto, wrappers_pb2
from google.rpc import code_pb2, status_pb2

rpc = sys.argv[sys.argv.index("--once-method") + 1]
if rpc == "Refuse":
    sys.exit(print("SETTING_INVALID: --price-book: no such file", file=sys.stderr) or 2)
if rpc == "Crash":
    sys.exit(print("something broke", file=sys.stderr) or 1)
while (request := proto.parse_length_prefixed(wrappers_pb2.StringValue, sys.stdin.buffer)) is not None:
    replies = [status_pb2.Status(), request]
    if rpc == "Fail":
        replies = [status_pb2.Status(code=code_pb2.NOT_FOUND, message="no such model")]
    if rpc == "Stop":
        replies = replies[:1]
    for reply in replies:
        proto.serialize_length_prefixed(reply, sys.stdout.buffer)
    sys.stdout.buffer.flush()
    if rpc == "Stop":
        sys.exit(print("stopped in the middle", file=sys.stderr) or 1)
"""


@pytest.fixture
def service(tmp_path, monkeypatch):
    """An installed service, `finetree_echo`."""
    package = tmp_path / "finetree_echo"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(SERVICE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with LocalService("echo") as local:
        yield local


def test_a_process_answers_call_after_call(service):
    for text in ("first", "second"):
        response = service.call("Echo", wrappers_pb2.StringValue(value=text), wrappers_pb2.StringValue())
        assert response.value == text


def test_a_status_is_the_exception_that_a_client_raises(service):
    with pytest.raises(NotFound, match="no such model"):
        service.call("Fail", wrappers_pb2.StringValue(), wrappers_pb2.StringValue())


def test_a_refused_setting_is_bad_input_with_its_reason(service):
    with pytest.raises(BadInput) as caught:
        service.call("Refuse", wrappers_pb2.StringValue(), wrappers_pb2.StringValue())
    assert (caught.value.reason, caught.value.message) == ("SETTING_INVALID", "--price-book: no such file")


def test_a_crash_has_the_exit_code_and_the_last_line(service):
    with pytest.raises(CliError, match="exit code 1: something broke"):
        service.call("Crash", wrappers_pb2.StringValue(), wrappers_pb2.StringValue())


def test_an_end_in_the_middle_of_an_answer_has_the_exit_code(service):
    with pytest.raises(CliError, match="exit code 1: stopped in the middle"):
        service.call("Stop", wrappers_pb2.StringValue(), wrappers_pb2.StringValue())


def test_no_process_is_left(service):
    service.start("Echo")
    (process,) = service._processes.values()
    service.__exit__(None, None, None)
    with pytest.raises(ProcessLookupError):
        os.kill(process._process.pid, 0)


def test_a_service_that_is_not_installed_names_the_package():
    with pytest.raises(NotAvailable) as caught:
        require_installed("nothing")
    assert caught.value.reason == "LOCAL_ENGINE_NOT_INSTALLED"
    assert "finetree-cli[local]" in caught.value.remedy
