# SPDX-License-Identifier: Apache-2.0
"""Errors of the worker as google.rpc.Status: the stable reason, where it was wrong, what to do."""

from collections.abc import Mapping

from finetree_api.trainer.v1 import job_pb2
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from finetree_worker.errors import Category, DataError, TaskError

DOMAIN = "finetree"
"""ErrorInfo.domain of every error of the suite."""
MAX_MESSAGE_CHARACTERS = 512
"""Longest message to clients; longer ones would exceed the size of gRPC trailers."""
CATEGORIES: Mapping[Category, job_pb2.FailureCategory.ValueType] = {
    Category.USER: job_pb2.FAILURE_CATEGORY_USER,
    Category.CAPACITY: job_pb2.FAILURE_CATEGORY_CAPACITY,
    Category.SYSTEM: job_pb2.FAILURE_CATEGORY_SYSTEM,
}
"""Categories as the contract has them."""
_CODES = {
    Category.USER: code_pb2.INVALID_ARGUMENT,
    Category.CAPACITY: code_pb2.RESOURCE_EXHAUSTED,
    Category.SYSTEM: code_pb2.INTERNAL,
}
_CODES_BY_REASON = {
    "TARGET_NOT_LOADED": code_pb2.NOT_FOUND,
    "TARGET_EXISTS": code_pb2.ALREADY_EXISTS,
    "TARGET_LIMIT": code_pb2.RESOURCE_EXHAUSTED,
}


def status_of(error: TaskError, category: Category | None = None) -> status_pb2.Status:
    """Return an error as clients get it; `category` replaces its own."""
    message = f"{error.message} {error.remedy}".strip()[:MAX_MESSAGE_CHARACTERS]
    code = _CODES_BY_REASON.get(error.reason, _CODES[category or error.category])
    status = status_pb2.Status(code=code, message=message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    if error.remedy:
        info.metadata["remedy"] = error.remedy
    if error.field:
        info.metadata["field"] = error.field
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.message[:MAX_MESSAGE_CHARACTERS], reason=error.reason
        )
        status.details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
    if isinstance(error, DataError) and error.row:
        info.metadata["row"] = str(error.row)
    # First, where clients look for it.
    status.details.insert(0, _packed(info))
    return status


def _packed(message: error_details_pb2.BadRequest | error_details_pb2.ErrorInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
