# SPDX-License-Identifier: Apache-2.0
"""From a gRPC status to the exception that says what to do."""

import finetree
import pytest
from finetree._shared.status import error_of, error_of_status, is_broken_connection
from finetree.config.options import TLS, Target
from finetree.errors import BY_CODE, FinetreeError, Violation
from google.rpc import code_pb2, error_details_pb2, status_pb2

PLAIN = Target("127.0.0.1:5", None)
ENCRYPTED = Target("127.0.0.1:5", TLS())


def trailers(*details: object, code=code_pb2.INVALID_ARGUMENT, message="wrong", extra=()):
    status = status_pb2.Status(code=code, message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return [("grpc-status-details-bin", status.SerializeToString()), ("finetree-server-version", "9.9"), *extra]


def test_everything_that_the_service_says_arrives():
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="job.spec.model", description="is required")
    info = error_details_pb2.ErrorInfo(reason="INVALID_REQUEST", domain="finetree", metadata={"a": "b"})
    error = error_of("INVALID_ARGUMENT", "ignored", trailers(info, bad, retry), request_id="r-1", target=PLAIN)
    assert type(error) is finetree.InvalidArgument
    assert (error.code, error.reason, error.message) == ("INVALID_ARGUMENT", "INVALID_REQUEST", "wrong")
    assert error.violations == (Violation("job.spec.model", "is required"),)
    assert (error.retry_after, error.request_id, error.server_version) == (1.5, "r-1", "9.9")
    assert error.metadata == {"a": "b"}


def test_a_failed_precondition_names_its_subject():
    unmet = error_details_pb2.PreconditionFailure()
    unmet.violations.add(type="STATE", subject="projects/p/datasets/1", description="is not ready")
    error = error_of("FAILED_PRECONDITION", "", trailers(unmet), request_id="")
    assert error.violations == (Violation("projects/p/datasets/1", "is not ready"),)


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_code_has_its_class(code):
    assert type(error_of(code, "text", None, request_id="")) is BY_CODE[code]


def test_an_unknown_code_is_still_a_finetree_error():
    error = error_of("DATA_LOSS", "text", None, request_id="")
    assert (type(error), error.code) == (FinetreeError, "DATA_LOSS")


def test_a_reason_may_have_a_class_of_its_own():
    info = error_details_pb2.ErrorInfo(reason="PLAN_DRIFT")
    assert type(error_of("FAILED_PRECONDITION", "", trailers(info), request_id="")) is finetree.PlanDrift


def test_details_that_are_no_details_are_ignored():
    error = error_of("NOT_FOUND", "text", [("grpc-status-details-bin", b"\xff\xff")], request_id="")
    assert (type(error), error.message) == (finetree.NotFound, "text")


@pytest.mark.parametrize(("trailer", "seconds"), [("grpc-retry-pushback-ms", 0.3), ("retry-after", 300.0)])
def test_retry_after_comes_from_trailers_too(trailer, seconds):
    assert error_of("UNAVAILABLE", "", [(trailer, "300")], request_id="").retry_after == seconds


@pytest.mark.parametrize(
    ("target", "text", "sentence"),
    [
        (
            PLAIN,
            "connect: Connection refused (111)",
            "nothing listens at 127.0.0.1:5; start the service (`finetree up`)",
        ),
        (Target("unix:/x", None), "connect: No such file or directory (2)", "nothing listens at unix:/x"),
        (Target("nowhere:5", None), "DNS resolution failed for nowhere:5", "the host of nowhere:5 has no address"),
        (
            ENCRYPTED,
            "Ssl handshake failed: WRONG_VERSION_NUMBER",
            "does not speak TLS and this client does; use http://",
        ),
        (ENCRYPTED, "Ssl handshake failed: CERTIFICATE_VERIFY_FAILED", "is not trusted; give its authority"),
        (ENCRYPTED, "TLS handshake failed (internal)", "the TLS handshake with 127.0.0.1:5 failed"),
        (PLAIN, "Socket closed", "127.0.0.1:5 is not reachable: Socket closed"),
    ],
)
def test_a_failure_to_connect_says_what_to_do(target, text, sentence):
    error = error_of("UNAVAILABLE", text, None, request_id="", target=target)
    assert sentence in str(error)
    assert error.reason == "SERVICE_UNREACHABLE"


def test_other_failures_of_the_way():
    late = error_of("DEADLINE_EXCEEDED", "Deadline Exceeded", None, request_id="", target=PLAIN)
    assert "did not answer in time" in late.message
    stranger = error_of("UNIMPLEMENTED", "", None, request_id="", target=PLAIN)
    assert "check that it is the right service" in stranger.message
    cut = error_of("INTERNAL", "RST_STREAM", None, request_id="", target=PLAIN)
    assert (cut.reason, is_broken_connection(cut)) == ("CONNECTION_BROKEN", True)
    assert isinstance(cut, finetree.Unavailable)


def test_a_services_own_internal_error_is_no_broken_connection():
    info = error_details_pb2.ErrorInfo(reason="INTERNAL")
    ours = error_of("INTERNAL", "", trailers(info), request_id="", target=PLAIN)
    assert not is_broken_connection(ours)


def test_a_status_inside_a_message():
    error = error_of_status(status_pb2.Status(code=code_pb2.NOT_FOUND, message="no model"))
    assert (type(error), error.code, str(error)) == (finetree.NotFound, "NOT_FOUND", "no model [NOT_FOUND]")
    assert error_of_status(status_pb2.Status(code=9999)).code == "UNKNOWN"
