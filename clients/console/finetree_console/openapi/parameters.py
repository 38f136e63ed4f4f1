# SPDX-License-Identifier: Apache-2.0
"""Parameters of operations: headers that all of them take, and the fields of a request as query parameters."""

from __future__ import annotations

from typing import Any

from finetree_console.openapi.schemas import Schema, Schemas
from finetree_console.rpc.query import TEXTS
from finetree_console.rpc.unary import IDEMPOTENCY_KEY, MAX_TIMEOUT, TIMEOUT

PARAMETERS: dict[str, Schema] = {
    "RequestTimeout": {
        "name": TIMEOUT,
        "in": "header",
        "description": "Seconds that the call may take. Default: that of the rpc.",
        "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TIMEOUT},
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


def query(descriptor: Any, schemas: Schemas, only: frozenset[str] | None = None) -> list[Schema]:
    """Query parameters of a message: its fields that are one value, or a list of such; fields below take dots."""
    required = schemas.required(descriptor)
    found = []
    for field in descriptor.fields:
        inner = field.message_type
        if (only is not None and field.name not in only) or (inner is not None and inner.full_name not in TEXTS):
            continue
        schema = schemas.field(field)
        text = schema.pop("description", "")
        found.append(
            {
                "name": field.name,
                "in": "query",
                **({"required": True} if field.name in required else {}),
                **({"description": text} if text else {}),
                "schema": schema,
            }
        )
    return found
