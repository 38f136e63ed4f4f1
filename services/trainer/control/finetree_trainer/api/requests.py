# SPDX-License-Identifier: Apache-2.0
"""What several rpcs read from a request: its parent, its key, the scope of its pages."""

from typing import Any

from finetree_runtime.ids import parse_parent
from finetree_runtime.server import context
from finetree_runtime.server.limits.table import Caller

from finetree_trainer.store.request_ids import RequestKey, body_hash


def caller_in(project: str) -> Caller:
    """Who calls, for limits of a project and of a principal."""
    return Caller(context.principal().name, project)


def request_key(request: Any, project: str, method: str) -> RequestKey:
    """What a repeated request is found by: its id and its body, for one method of a project."""
    return RequestKey(project, request.request_id, method, body_hash(request, "request_id"))


def parent_project(text: str) -> str:
    """The project that a request names as parent; the caller's own where it names none."""
    return parse_parent(text, project=context.principal().project)


def page_scope(method: str, subject: str, request: Any, *without: str) -> str:
    """What a page token is bound to: one list with one set of filters."""
    return f"{method}/{subject}/{body_hash(request, *without)}"
