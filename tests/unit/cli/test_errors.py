# SPDX-License-Identifier: Apache-2.0
"""Each exception of the SDK gets its exit code, its remedy and one line."""

import finetree
import pytest
from finetree import errors as sdk
from finetree_cli.errors import ExitCode, of_service_error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (sdk.InvalidArgument("x", reason="INVALID_REQUEST"), ExitCode.USAGE),
        (sdk.InvalidSpec("x"), ExitCode.USAGE),
        (sdk.NotFound("x", reason="MODEL_NOT_FOUND"), ExitCode.USAGE),
        (sdk.AlreadyExists("x", reason="REQUEST_ID_REUSED"), ExitCode.USAGE),
        (sdk.PermissionDenied("x", reason="PATH_OUTSIDE_ROOTS"), ExitCode.USAGE),
        (sdk.OutOfRange("x", reason="FUTURE_SEQ"), ExitCode.USAGE),
        (sdk.FailedPrecondition("x", reason="DATASET_NOT_READY"), ExitCode.USAGE),
        (sdk.FailedPrecondition("x", reason="REVISION_UNAVAILABLE"), ExitCode.NOT_AVAILABLE),
        (sdk.FailedPrecondition("x", reason="NO_SUCH_DEVICE"), ExitCode.NOT_AVAILABLE),
        (sdk.PlanDrift("x", reason="PLAN_DRIFT"), ExitCode.GATE_FAILED),
        (sdk.Unavailable("x"), ExitCode.NOT_AVAILABLE),
        (sdk.DeadlineExceeded("x"), ExitCode.NOT_AVAILABLE),
        (sdk.ResourceExhausted("x", reason="QUEUE_FULL"), ExitCode.NOT_AVAILABLE),
        (sdk.ResourceExhausted("x", reason="DATASET_TOO_LARGE"), ExitCode.USAGE),
        (sdk.FinetreeTimeout("x"), ExitCode.STILL_RUNNING),
        (sdk.JobFailed("x"), ExitCode.JOB_FAILED),
        (sdk.Internal("x"), ExitCode.INTERNAL),
        (sdk.FinetreeError("x"), ExitCode.INTERNAL),
    ],
    ids=lambda value: getattr(value, "reason", "") or type(value).__name__,
)
def test_exit_code(error, code):
    assert of_service_error(error).exit_code == code


def test_every_exception_has_an_exit_code_that_is_documented():
    for cls in sdk.BY_CODE.values():
        assert of_service_error(cls("x")).exit_code in set(ExitCode) - {ExitCode.OK}


def test_what_is_shown_names_fields_reason_and_request():
    violation = finetree.Violation("spec.lora.rank", "must be positive")
    error = sdk.InvalidArgument(
        "the request\nis wrong", reason="INVALID_REQUEST", violations=(violation,), request_id="r1"
    )
    failure = of_service_error(error)
    assert failure.lines() == [
        "error: the request is wrong [INVALID_REQUEST]",
        "  spec.lora.rank: must be positive",
    ]
    assert failure.document()["error"] == {
        "exit_code": 2,
        "reason": "INVALID_REQUEST",
        "message": "the request is wrong",
        "code": "INVALID_ARGUMENT",
        "problems": [{"field": "spec.lora.rank", "description": "must be positive"}],
        "request_id": "r1",
    }


def test_a_row_that_the_message_names_is_not_said_twice():
    violations = (finetree.Violation("rows[1]", "is not JSON"), finetree.Violation("rows[7]", "is a list"))
    error = sdk.InvalidArgument("train.jsonl, Row 1: is not JSON. Correct the data.", violations=violations)
    assert of_service_error(error).details == ("rows[7]: is a list",)


def test_a_fault_of_ours_names_the_request():
    failure = of_service_error(sdk.Internal("internal error 4711", request_id="r2"))
    assert any("r2" in line for line in failure.lines())


def test_a_way_out_that_the_service_names_is_not_said_twice():
    text = "nothing listens at 127.0.0.1:1; start the service (`finetree up`) or check the address"
    assert len(of_service_error(sdk.Unavailable(text)).lines()) == 1


@pytest.mark.parametrize(
    ("offer", "flags"),
    [
        (
            "map columns {prompt: question, completion: answers.text.0}",
            "--column prompt=question --column completion=answers.text.0",
        ),
        (
            'such as columns {prompt: "Tweet text", completion: text_label}',
            "--column 'prompt=Tweet text' --column completion=text_label",
        ),
        (
            "columns {prompt: text, completion: label} to learn the label, or columns {text: text} to learn the text",
            "--column prompt=text --column completion=label, or --column text=text",
        ),
        ("say so in reading.file_format", "--file-format csv, or --file-format text"),
    ],
)
def test_a_mapping_that_a_message_about_rows_offers_is_given_as_flags(offer, flags):
    failure = of_service_error(sdk.InvalidArgument(f"Row 1: needs a mapping; {offer}", reason="MALFORMED_ROW"))
    assert failure.remedy == f"with `finetree data check`: {flags}"


def test_no_flags_are_made_up_where_a_message_offers_no_mapping():
    message = "Row 1: name yours, such as columns {prompt: …, completion: …}"
    assert not of_service_error(sdk.InvalidArgument(message, reason="MALFORMED_ROW")).remedy


def test_a_plan_that_differs_lists_each_difference():
    field = "job.train.spec.dataset.reading.file_format"
    error = sdk.PlanDrift("2 fields differ", reason="PLAN_DRIFT", violations=(finetree.Violation(field, "now JSONL"),))
    failure = of_service_error(error)
    assert failure.details == (f"{field}: now JSONL",)
    assert "data check" not in failure.remedy


def test_a_service_that_is_there_need_not_be_started():
    for message, reason in (
        ("the TLS certificate of 127.0.0.1:1 has expired; whoever runs it has to renew it", "SERVICE_UNREACHABLE"),
        ("this server cannot reach the issuer of the token", "ISSUER_UNAVAILABLE"),
    ):
        assert of_service_error(sdk.Unavailable(message, reason=reason)).remedy == ""
