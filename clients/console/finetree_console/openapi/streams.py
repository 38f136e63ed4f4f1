# SPDX-License-Identifier: Apache-2.0
"""Operations of the rpcs that stream: event streams, a log, an upload and a download."""

from __future__ import annotations

from typing import Any

from finetree_api.trainer.v1 import event_pb2

from finetree_console.openapi.parameters import query
from finetree_console.openapi.schemas import Schema, Schemas, reference
from finetree_console.rpc.contract import Method

EVENT = event_pb2.JobEvent.DESCRIPTOR
"""The message that an event stream holds."""
ANSWERED_IN_JSON = {"WriteDataset"}
"""Rpcs that stream and answer with their response message."""
LOGGED = frozenset({"name", "attempt", "offset", "last_lines", "follow", "last_attempt"})
UPLOADED = frozenset({"name", "offset"})
DOWNLOADED = frozenset({"name", "path"})


def operation(method: Method, schemas: Schemas) -> tuple[str, dict[str, Any]]:
    """Verb and operation of an rpc that streams, without what all operations have."""
    operations = {
        "WatchJob": _watch,
        "WatchJobs": _watch_all,
        "ReadJobLog": _log,
        "Generate": _generate,
        "WriteDataset": _upload,
        "DownloadArtifact": _download,
    }
    return operations[method.name](method, schemas)


def _watch(method: Method, schemas: Schemas) -> tuple[str, dict[str, Any]]:
    last = _header("last-event-id", "Id of the last event that the client has.", {"type": "string"})
    events = {
        "description": (
            "Server-Sent Events. `data` of each is a JobEvent, `id` a cursor. Comments are heartbeats. An event of the "
            "type `failure` has an Error as its data, and is the last one."
        ),
        "content": {"text/event-stream": {"schema": {"type": "string", "contentSchema": reference(EVENT.full_name)}}},
    }
    over = {"description": "The job has ended, and nothing follows: a browser does not attach again."}
    return "get", {
        "parameters": [*query(method.request.DESCRIPTOR, schemas), last],
        "responses": {"200": events, "204": over},
    }


def _watch_all(method: Method, schemas: Schemas) -> tuple[str, dict[str, Any]]:
    last = _header("last-event-id", "Id of the last change that the client has.", {"type": "string"})
    changes = {
        "description": (
            "Server-Sent Events without end. `data` of each is a JobEvent, `id` a cursor. Comments are heartbeats. An "
            "event of the type `failure` has an Error as its data, and is the last one."
        ),
        "content": {"text/event-stream": {"schema": {"type": "string", "contentSchema": reference(EVENT.full_name)}}},
    }
    return "get", {
        "parameters": [*query(method.request.DESCRIPTOR, schemas), last],
        "responses": {"200": changes},
    }


def _generate(method: Method, _schemas: Schemas) -> tuple[str, dict[str, Any]]:
    answer = reference(method.response.DESCRIPTOR.full_name)
    answers = {
        "description": (
            "Server-Sent Events. `data` of each is a GenerateResponse; the last one has `usage`. An event of the type "
            "`failure` has an Error as its data, and is the last one. A client that closes the connection cancels."
        ),
        "content": {"text/event-stream": {"schema": {"type": "string", "contentSchema": answer}}},
    }
    body = {"application/json": {"schema": reference(method.request.DESCRIPTOR.full_name)}}
    return "post", {"requestBody": {"required": True, "content": body}, "responses": {"200": answers}}


def _log(method: Method, schemas: Schemas) -> tuple[str, dict[str, Any]]:
    lines = {
        "description": "The lines from the start that was asked for; with `follow` as they come.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
    return "get", {
        "parameters": query(method.request.DESCRIPTOR, schemas, LOGGED),
        "responses": {"200": lines},
    }


def _upload(method: Method, schemas: Schemas) -> tuple[str, dict[str, Any]]:
    part = _header(
        "content-range",
        "bytes FIRST-LAST/SIZE: FIRST is the offset, as `curl -C OFFSET -T FILE` sends it.",
        {"type": "string"},
    )
    return "put", {
        "parameters": [*query(method.request.DESCRIPTOR, schemas, UPLOADED, required=["name"]), part],
        "requestBody": {"required": True, "content": {"application/octet-stream": {}}},
        "responses": {
            "200": {
                "description": "What is committed.",
                "content": {"application/json": {"schema": reference(method.response.DESCRIPTOR.full_name)}},
            }
        },
    }


def _download(method: Method, schemas: Schemas) -> tuple[str, dict[str, Any]]:
    ranges = _header("range", "Part of the file, such as bytes=1000-.", {"type": "string"})
    content: Schema = {"*/*": {}}
    return "get", {
        "parameters": [*query(method.request.DESCRIPTOR, schemas, DOWNLOADED), ranges],
        "responses": {
            "200": {"description": "The file. Its ETag is its SHA-256.", "content": content},
            "206": {"description": "The part of the file.", "content": content},
            "304": {"description": "The file is the one that If-None-Match names."},
        },
    }


def _header(name: str, text: str, schema: Schema) -> Schema:
    return {"name": name, "in": "header", "description": text, "schema": schema}
