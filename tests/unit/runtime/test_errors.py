# SPDX-License-Identifier: Apache-2.0
"""What a DomainError looks like on the wire."""

import pytest
from finetree_runtime import errors
from google.rpc import code_pb2, error_details_pb2


def detail(status, kind):
    """The one detail of a kind; fails where there is none."""
    message = kind()
    packed = [item for item in status.details if item.Is(kind.DESCRIPTOR)]
    assert len(packed) == 1
    assert packed[0].Unpack(message)
    return message


@pytest.mark.parametrize("code", [code for code in errors.Code if code not in {0, 1, 2, 13}])
def test_each_code_has_one_class_and_the_number_of_google_rpc(code):
    assert code == code_pb2.Code.Value(code.name)
    assert [kind.code for kind in errors.DomainError.__subclasses__()].count(code) == 1


def test_error_info_is_always_there():
    status = errors.to_status(errors.NotFound("MODEL_NOT_FOUND", "no model x", metadata={"model": "x"}))
    info = detail(status, error_details_pb2.ErrorInfo)
    assert (status.code, status.message) == (5, "no model x")
    assert (info.reason, info.domain, dict(info.metadata)) == ("MODEL_NOT_FOUND", "finetree", {"model": "x"})
    assert len(status.details) == 1


def test_violations_become_a_bad_request():
    status = errors.to_status(errors.invalid_field("spec.lora.rank", "must be positive", "RANK"))
    assert status.message == "spec.lora.rank: must be positive"
    (violation,) = detail(status, error_details_pb2.BadRequest).field_violations
    assert (violation.field, violation.description, violation.reason) == ("spec.lora.rank", "must be positive", "RANK")


def test_violations_of_a_state_become_a_precondition_failure():
    error = errors.FailedPrecondition("PLAN_DRIFT", "not the approved plan", violations=[("spec", "differs", "DRIFT")])
    (violation,) = detail(errors.to_status(error), error_details_pb2.PreconditionFailure).violations
    assert (violation.type, violation.subject, violation.description) == ("DRIFT", "spec", "differs")


def test_a_retry_delay_becomes_retry_info():
    status = errors.to_status(errors.ResourceExhausted("QUEUE_FULL", "full", retry_delay=1.25))
    assert detail(status, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 1250


def test_a_few_violations_are_all_sent_and_not_counted():
    error = errors.InvalidArgument("X", "x", violations=[(f"a[{i}]", "wrong") for i in range(errors.MAX_VIOLATIONS)])
    status = errors.to_status(error)
    assert len(detail(status, error_details_pb2.BadRequest).field_violations) == errors.MAX_VIOLATIONS
    assert "violation_count" not in detail(status, error_details_pb2.ErrorInfo).metadata


@pytest.mark.parametrize("text", ["a" * 5000, "ü" * 5000, "火" * 5000, ""])
def test_no_error_outgrows_the_trailers(text):
    error = errors.InvalidArgument(
        "INVALID_REQUEST",
        text,
        metadata={f"key{i}": text for i in range(50)},
        violations=[(f"rows[{i}].{text}", text, "R" * 64) for i in range(500)],
        retry_delay=3600.5,
    )
    status = errors.to_status(error)
    assert status.ByteSize() <= errors.MAX_STATUS_BYTES
    assert 1 <= len(detail(status, error_details_pb2.BadRequest).field_violations) <= errors.MAX_VIOLATIONS
    assert detail(status, error_details_pb2.ErrorInfo).metadata["violation_count"] == "500"
