# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI 3.1 document: a path for each rpc, in the order of the contract."""

from __future__ import annotations

import json
import re
from typing import Any

from finetree_console import health
from finetree_console.errors import STATUS
from finetree_console.openapi import streams
from finetree_console.openapi.image import Image
from finetree_console.openapi.parameters import PARAMETERS, is_parameter, query
from finetree_console.openapi.schemas import Schema, Schemas, reference
from finetree_console.rpc.contract import Method, methods, services

ABOUT = (
    "Recommends, estimates and runs fine-tuning of language models. Every path is an rpc of the gRPC contract, and the "
    "fields of its request are the JSON body or the query parameters. int64 are JSON numbers below 2^53. Unknown keys "
    "are refused. Messages only grow: ignore keys and enum values that you do not know; an enum value that this server "
    "does not know either is a number."
)


def document(image: Image) -> dict[str, Any]:
    """Make the document."""
    every = list(methods())
    asked = [method for method in every if method.unary or method.name in streams.ANSWERED_IN_JSON]
    schemas = Schemas(
        image,
        requests=[method.request.DESCRIPTOR for method in every if method.unary],
        responses=[*(method.response.DESCRIPTOR for method in asked), streams.EVENT],
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "finetree",
            "version": "v1",
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}],
        "tags": [
            {"name": service.file.package.split(".")[1], "description": image.comments[service.full_name]}
            for service in services()
        ],
        "paths": {**{method.path: _path(method, image, schemas) for method in every}, **_probes()},
        "components": {
            "schemas": {**schemas.components(), "Error": ERROR},
            "responses": {"Error": {"description": "What was wrong, and what to do.", "content": _json("Error")}},
            "parameters": PARAMETERS,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def encoded(image: Image) -> str:
    """Write the document as it is committed."""
    return json.dumps(document(image), indent=1, ensure_ascii=False) + "\n"


def _path(method: Method, image: Image, schemas: Schemas) -> dict[str, Any]:
    comment = image.comments[method.rpc.strip("/").replace("/", ".")]
    if not method.unary:
        verb, operation = streams.operation(method, schemas)
        return {verb: _operation(method, comment) | operation | {"responses": operation["responses"] | _refusals()}}
    descriptor = method.request.DESCRIPTOR
    answer = {"200": {"description": "The answer.", "content": _json(method.response.DESCRIPTOR.full_name)}}
    keyed = [{"$ref": "#/components/parameters/IdempotencyKey"}] if "request_id" in descriptor.fields_by_name else []
    post = _operation(method, comment) | {
        "parameters": [*_common(), *keyed],
        "requestBody": {"required": bool(schemas.required(descriptor)), "content": _json(descriptor.full_name)},
        "responses": answer | _refusals(),
    }
    needed = [descriptor.fields_by_name[name] for name in schemas.required(descriptor)]
    if not (method.safe and all(is_parameter(field) for field in needed)):
        return {"post": post}  # GET of a message that is needed takes parameters with dots, too many to list
    get = _operation(method, comment) | {
        "operationId": f"{method.service}.{method.name}.get",
        "parameters": [*query(descriptor, schemas), *_common()],
        "responses": answer | _refusals(),
    }
    return {"get": get, "post": post}


def _operation(method: Method, comment: str) -> dict[str, Any]:
    return {
        "operationId": f"{method.service}.{method.name}",
        "tags": [method.service],
        "summary": re.split(r"\.\s", comment, maxsplit=1)[0].rstrip("."),
        "description": comment,
    }


def _refusals() -> dict[str, Any]:
    return {"default": {"$ref": "#/components/responses/Error"}}


def _common() -> list[Schema]:
    return [{"$ref": f"#/components/parameters/{name}"} for name in ("RequestTimeout", "RequestId")]


def _json(full_name: str) -> dict[str, Any]:
    return {"application/json": {"schema": reference(full_name)}}


def _probes() -> dict[str, Any]:
    state = {"type": "object", "properties": {"status": {"enum": ["SERVING", "NOT_SERVING"]}}, "required": ["status"]}
    content = {"application/json": {"schema": state}}

    def probe(name: str, summary: str, answers: dict[str, str]) -> dict[str, Any]:
        responses = {code: {"description": text, "content": content} for code, text in answers.items()}
        return {"get": {"operationId": name, "tags": ["health"], "summary": summary, "responses": responses}}

    ready = {"200": "All three services answer.", "503": "One of them does not; which one, and why."}
    return {
        health.LIVE: probe("live", "Whether the server lives", {"200": "It does."}),
        health.READY: probe("ready", "Whether the services behind it answer", ready),
    }


ERROR: Schema = {
    "type": "object",
    "description": "Why a request was refused or failed.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "reason", "message", "violations", "metadata", "retry_after", "request_id"],
            "properties": {
                "code": {
                    "type": "string",
                    "examples": list(STATUS),
                    "description": "gRPC status code by name; the HTTP status follows from it.",
                },
                "reason": {"type": "string", "description": "Stable, for programs to switch on: see ErrorReason."},
                "message": {"type": "string", "description": "What was wrong, where, and what to do; one line."},
                "violations": {
                    "type": "array",
                    "description": "Single faults.",
                    "items": {
                        "type": "object",
                        "required": ["field", "description"],
                        "properties": {
                            "field": {"type": "string", "description": "Path of the field; a header is in brackets."},
                            "description": {"type": "string", "description": "What is wrong with it."},
                        },
                    },
                },
                "metadata": {
                    "type": "object",
                    "additionalProperties": {"type": "string"},
                    "description": "Facts that a program may use, such as oldest_seq or committed_bytes.",
                },
                "retry_after": {
                    "type": ["number", "null"],
                    "description": "Seconds after which another try makes sense; also in Retry-After.",
                },
                "request_id": {"type": "string", "description": "Id of the request, to find it in logs."},
            },
        }
    },
}
