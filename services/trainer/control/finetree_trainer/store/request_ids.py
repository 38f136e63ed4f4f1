# SPDX-License-Identifier: Apache-2.0
"""Request ids: which request each one belongs to and what that request made. Kept for ever."""

import hashlib
from dataclasses import dataclass
from typing import Any

from finetree_runtime.errors import AlreadyExists
from google.protobuf.message import Message
from sqlalchemy import Connection, delete, insert, select

from finetree_trainer.store import schema
from finetree_trainer.store.sealed import Damaged, record_damaged

_ids = schema.request_ids.c


@dataclass(frozen=True, slots=True)
class RequestKey:
    """What makes two requests the same one. An empty `request_id` makes no request the same as another."""

    project: str
    request_id: str
    method: str
    body_hash: str


def body_hash(request: Message, *without: str) -> str:
    """SHA-256 of a request without the named fields; map order does not matter, and no client's encoding does."""
    body = type(request)()
    body.CopyFrom(request)
    for field in without:
        body.ClearField(field)
    return hashlib.sha256(body.SerializeToString(deterministic=True)).hexdigest()


@dataclass(frozen=True, slots=True)
class Answered:
    """What an earlier request under the same id has made or changed.

    `reply` is empty where the reply can be built from the resource.
    """

    resource: str
    reply: bytes = b""


def find(connection: Connection, key: RequestKey) -> Answered | None:
    """What the same request has made or changed before; None for a new request.

    Raises AlreadyExists REQUEST_ID_REUSED when the id belongs to another request, FailedPrecondition RECORD_DAMAGED.
    """
    if not key.request_id:
        return None
    query = select(_ids.method, _ids.body_hash, _ids.resource, _ids.reply)
    found = connection.execute(query.where(_ids.project == key.project, _ids.request_id == key.request_id)).first()
    if found is None:
        return None
    if (found.method, found.body_hash) != (key.method, key.body_hash):
        raise reused(key, resource=found.resource)
    if isinstance(found.reply, Damaged):
        raise record_damaged(f"request {key.request_id}")
    return Answered(str(found.resource), found.reply)


def reused(key: RequestKey, **metadata: str) -> AlreadyExists:
    """Build the error for an id that belongs to another request; `metadata` says what is known of that one."""
    text = f"request_id {key.request_id!r} belongs to another request; take a new one."
    return AlreadyExists("REQUEST_ID_REUSED", text, metadata={"request_id": key.request_id, **metadata})


def claim(connection: Connection, key: RequestKey, resource: str, *, now: int, reply: bytes = b"") -> Answered | None:
    """Bind a new request's id to what it makes or changes; return what a repeated one has done before instead.

    Raises AlreadyExists REQUEST_ID_REUSED when the id belongs to another request.
    """
    found = find(connection, key)
    if found is None and key.request_id:
        values: dict[str, Any] = {"project": key.project, "request_id": key.request_id, "method": key.method}
        values |= {"body_hash": key.body_hash, "resource": resource, "reply": reply}
        connection.execute(insert(schema.request_ids), values | {"create_time": now})
    return found


def forget(connection: Connection, resource: str) -> None:
    """Free the ids of the requests that made a resource which is as if it had never been."""
    connection.execute(delete(schema.request_ids).where(_ids.resource == resource))
