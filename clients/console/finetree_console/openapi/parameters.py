# SPDX-License-Identifier: Apache-2.0
"""Parameters of operations: headers that all of them take, and the fields of a request as query parameters."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from google.type import money_pb2

from finetree_console.openapi.schemas import Schema, Schemas
from finetree_console.rpc.query import TEXTS
from finetree_console.rpc.unary import IDEMPOTENCY_KEY, MAX_TIMEOUT, MIN_TIMEOUT, TIMEOUT

MONEY: Schema = {"type": "string", "examples": ["50 USD"]}
"""An amount of money as a query parameter."""
PRESENT: Schema = {"type": "string"}
"""A message without fields as a query parameter: that it is there counts, whatever its value."""
PARAMETERS: dict[str, Schema] = {
    "RequestTimeout": {
        "name": TIMEOUT,
        "in": "header",
        "description": "Seconds that the call may take. Default: that of the rpc.",
        "schema": {"type": "number", "minimum": MIN_TIMEOUT, "maximum": MAX_TIMEOUT},
    },
    "RequestId": {
        "name": "x-request-id",
        "in": "header",
        "description": "Id of this request in logs, also the services'. Default: a new one. The response has it.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    },
    "IdempotencyKey": {
        "name": IDEMPOTENCY_KEY,
        "in": "header",
        "description": "Becomes `request_id` of the body where that has none: sent again, it does nothing twice.",
        "schema": {"type": "string", "maxLength": 128, "pattern": "^[!-~]*$"},
    },
}


def query(
    descriptor: Any, schemas: Schemas, only: frozenset[str] | None = None, *, required: Collection[str] = ()
) -> list[Schema]:
    """Query parameters of a message: its fields that are one value, or a list of such; fields below take dots.

    Args:
        descriptor: of the message.
        schemas: of its fields.
        only: names of the fields; None means all of them that can be.
        required: names of fields that are needed besides those of the contract's rules.
    """
    needed = {*schemas.required(descriptor), *required}
    found = []
    for field in descriptor.fields:
        if (only is not None and field.name not in only) or not is_parameter(field):
            continue
        schema = schemas.field(field)
        text = schema.pop("description", "")
        if field.message_type is money_pb2.Money.DESCRIPTOR:
            schema = MONEY
        elif _is_mark(field):
            schema = PRESENT
        found.append(
            {
                "name": field.name,
                "in": "query",
                **({"required": True} if field.name in needed else {}),
                **({"description": text} if text else {}),
                "schema": schema,
            }
        )
    return found


def is_parameter(field: Any) -> bool:
    """Whether a field is one value, or a list of such, and so a query parameter of its own name."""
    kind = field.message_type
    return kind is None or kind.full_name in TEXTS or _is_mark(field)


def _is_mark(field: Any) -> bool:
    """Whether a field is a message without fields, which says something by being there."""
    return field.message_type is not None and not field.message_type.fields and not field.is_repeated
