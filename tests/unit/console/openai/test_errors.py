# SPDX-License-Identifier: Apache-2.0
"""Errors of the services in OpenAI's shape."""

import json

import finetree
import pytest
from finetree.errors import Violation
from finetree_console.openai import errors


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("job.train.spec.dataset.reading", "training_file"),
        ("spec.evaluation.dataset", "validation_file"),
        ("job.spec.training.effective_batch_size", "hyperparameters.batch_size"),
        ("training.epochs", "hyperparameters.n_epochs"),
        ("job.train.spec.lora.rank", "finetree.lora.rank"),
        ("model", "model"),
        ("job.labels[a]", "metadata"),
        ("rows[3].messages", "file"),
        ("", None),
    ],
)
def test_a_field_of_the_contract_is_named_as_the_interface_names_it(field, param):
    error = finetree.InvalidArgument("wrong", violations=(Violation(field, "wrong"),))
    assert errors.param_of(error) == param


@pytest.mark.parametrize(
    ("error", "status", "kind", "retried"),
    [
        (finetree.InvalidArgument("a"), 400, "invalid_request_error", "false"),
        (finetree.AlreadyExists("a", reason="REQUEST_ID_REUSED"), 400, "invalid_request_error", "false"),
        (finetree.FailedPrecondition("a"), 400, "invalid_request_error", "false"),
        (finetree.NotFound("a"), 404, "invalid_request_error", "false"),
        (finetree.Unauthenticated("a"), 401, "authentication_error", "false"),
        (finetree.PermissionDenied("a"), 403, "permission_error", "false"),
        (finetree.ResourceExhausted("a", reason="DATASET_TOO_LARGE"), 413, "invalid_request_error", "false"),
        (finetree.ResourceExhausted("a", reason="QUEUE_FULL", retry_after=2.5), 429, "rate_limit_error", "true"),
        (finetree.ResourceExhausted("a", reason="DISK_FULL"), 507, "server_error", "false"),
        (finetree.Unavailable("a"), 503, "server_error", "true"),
        (finetree.Aborted("a"), 503, "server_error", "true"),
        (finetree.DeadlineExceeded("a"), 504, "server_error", "true"),
        (finetree.Internal("a"), 500, "server_error", "false"),
    ],
)
def test_only_what_may_pass_is_tried_again(error, status, kind, retried):
    answer = errors.response_of(error)
    content = json.loads(answer.body)["error"]
    assert (answer.status_code, content["type"], answer.headers["x-should-retry"]) == (status, kind, retried)
    assert content["code"] == (error.reason or error.code)
    assert answer.headers.get("retry-after") == ("3" if error.retry_after else None)


def test_every_violation_is_in_the_message():
    error = finetree.InvalidArgument(
        "two fields", violations=(Violation("a", "too small"), Violation("b", "too large"))
    )
    assert errors.document(error)["message"] == "two fields; a: too small; b: too large"
