# SPDX-License-Identifier: Apache-2.0
"""One answer without a server: a request as proto JSON in, the response as proto JSON out; what CI uses offline."""

from typing import BinaryIO, TextIO

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_runtime.errors import DomainError, InvalidArgument, to_status
from finetree_runtime.validation import validate
from google.protobuf import json_format

from finetree_estimator.servicer import EstimatorServicer

BAD_INPUT = 2
"""Exit code of a request that was refused, as the suite's programs have it."""


def answer_once(servicer: EstimatorServicer, source: BinaryIO, out: TextIO, err: TextIO) -> int:
    """Answer the EstimateRunRequest in `source`; an error is a google.rpc.Status on `err`. Returns the exit code."""
    try:
        request = _parse(source.read())
        validate(request)
        response = pb.EstimateRunResponse(estimate=servicer.estimate(request))
    except DomainError as error:
        err.write(json_format.MessageToJson(to_status(error), preserving_proto_field_name=True) + "\n")
        return BAD_INPUT
    out.write(json_format.MessageToJson(response, preserving_proto_field_name=True) + "\n")
    return 0


def _parse(content: bytes) -> pb.EstimateRunRequest:
    try:
        return json_format.Parse(content, pb.EstimateRunRequest())
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise InvalidArgument("MALFORMED_REQUEST", f"stdin is no EstimateRunRequest in proto JSON: {error}") from error
