# SPDX-License-Identifier: Apache-2.0
"""Which calls the audit log has: those that change something, give a secret, or are refused for lack of rights.

A record has names, numbers and codes, and never a body: no text of a request but its resource names.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message

from finetree_runtime.errors import Code
from finetree_runtime.meter import Meter
from finetree_runtime.server import context
from finetree_runtime.server.access.requirement import requirement_of
from finetree_runtime.server.audit.log import AuditLog

Mode = Literal["changes", "all"]
"""Which calls are recorded: those that change something, give a secret or are refused for lack of rights, or all."""

REFUSED = frozenset({Code.PERMISSION_DENIED.name, Code.UNAUTHENTICATED.name})
"""Codes of calls that are refused for lack of rights."""
REFUSALS_A_SECOND = 20
"""Refusals that get a record of their own; those beyond are counted in one record: a flood of them fills no disk."""
MAX_NAMES = 8
"""Resource names in a record."""

_NAME = re.compile(r"(?!ft_)[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}(/[A-Za-z0-9._@:-]{1,128}){0,7}")
"""A resource name, which has no spaces: nothing that a text of a user looks like, and no token."""
_MAX_TEXT = 256
"""Characters of a principal's name or of a peer that a record has."""


class Auditor:
    """Opens a trail for each call. Without a log nothing is recorded."""

    def __init__(self, log: AuditLog | None = None, mode: Mode = "changes", *, required: bool = False) -> None:
        """Record to a log; `required`: what cannot be recorded before may not change anything."""
        self._log, self._mode, self._required = log, mode, required
        self._refused = 0
        self._uncounted: Counter[tuple[str, str, str]] = Counter()

    def trail(self, call: context.Call, peer: str) -> Trail:
        """Begin to follow a call."""
        return Trail(self, call, peer)

    async def begin(self, trail: Trail) -> None:
        """Record the start of an upload, and of every change and secret where the log is required.

        Raises Unavailable AUDIT_UNAVAILABLE where it is required and cannot be written.
        """
        if self._log is None or not (changes(trail.method) or gives_secret(trail.method)):
            return
        if self._required:
            await self._log.durable("begin", trail.fields())
        elif uploads(trail.method):
            self._log.note("begin", trail.fields())

    def end(self, trail: Trail, code: str) -> None:
        """Record the outcome of a call, if calls of this kind are recorded."""
        if self._log is None:
            return
        refused = code in REFUSED
        if refused and self._is_flood(trail, code):
            return
        if refused or self._mode == "all" or changes(trail.method) or gives_secret(trail.method):
            self._log.note("call", trail.fields(code))

    def show(self, meter: Meter) -> None:
        """Show on the page of metrics whether records reach the disk; nothing of a service without a log."""
        log = self._log
        waiting, lost = "Records of the audit log that the disk has not taken yet.", "Records of it that were lost."
        meter.gauge("finetree_audit_waiting_records", waiting, read=lambda: {(): log.waiting} if log else {})
        meter.total("finetree_audit_lost_records_total", lost, read=lambda: {(): log.lost} if log else {})

    def close(self) -> None:
        """Write what was recorded, and close the log. Blocks while it does."""
        if self._log is not None:
            self._note_uncounted()
            self._log.note("stop", {})
            self._log.close()

    def _is_flood(self, trail: Trail, code: str) -> bool:
        """Count a refusal; return whether there were too many in this second for a record of its own."""
        if not self._refused:
            asyncio.get_running_loop().call_later(1.0, self._note_uncounted)
        self._refused += 1
        if self._refused <= REFUSALS_A_SECOND:
            return False
        host = trail.peer.rpartition(":")[0] or trail.peer
        self._uncounted[host[:_MAX_TEXT], code, trail.reason] += 1
        return True

    def _note_uncounted(self) -> None:
        uncounted, self._uncounted, self._refused = self._uncounted, Counter(), 0
        log = self._log
        if log is None:
            return
        for (peer, code, reason), count in uncounted.most_common(REFUSALS_A_SECOND):
            log.note("refusals", {"peer": peer, "code": code, "reason": reason, "count": count})


class Trail:
    """One call, as the audit log sees it."""

    def __init__(self, auditor: Auditor, call: context.Call, peer: str) -> None:
        self._auditor, self._call, self.peer = auditor, call, peer
        self._request: Message | None = None
        self._reply: Message | None = None
        self.begun = False

    @property
    def method(self) -> str:
        """Full name of the method, as gRPC writes it."""
        return self._call.method

    @property
    def reason(self) -> str:
        """Reason of the error that ended it; empty without one."""
        return str(self._call.fields.get("reason", ""))

    def received(self, message: Any) -> None:
        """Take note of the message that names what the call is about; of a client's stream the first one."""
        self._request = message if isinstance(message, Message) else None

    async def begin(self) -> None:
        """Note that the method is about to be called, or that it gets the first message of a stream."""
        if self.begun:
            return
        self.begun = True
        await self._auditor.begin(self)

    def replied(self, reply: Any) -> None:
        """Take note of the reply of a unary method, which names what was made."""
        self._reply = reply if isinstance(reply, Message) else None

    def end(self, code: str) -> None:
        """Note the outcome."""
        self._auditor.end(self, code)

    def fields(self, code: str = "") -> dict[str, Any]:
        """Members of its record; without a code, of the one at its start."""
        principal = self._call.principal
        found: dict[str, Any] = {
            "principal": principal.name[:_MAX_TEXT],
            "kind": principal.kind,
            "credential": principal.credential,
            "peer": self.peer[:_MAX_TEXT],
            "method": self.method,
            "resources": list(dict.fromkeys([*_named(self.method, self._request), *_made(self._reply)]))[:MAX_NAMES],
            "request_id": self._call.request_id,
        }
        if code:
            found |= {"code": code, "reason": self.reason}
            if "error_id" in self._call.fields:
                found["error_id"] = self._call.fields["error_id"]
        return found


@functools.cache
def _descriptor(method: str) -> MethodDescriptor | None:
    service, _, name = method.strip("/").rpartition("/")
    try:
        return descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    except KeyError:
        return None


_requirement = functools.cache(requirement_of)


@functools.cache
def changes(method: str) -> bool:
    """Whether a method changes something: what does not say that it has no side effects, watches apart."""
    found = _descriptor(method)
    if found is None or found.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS:
        return found is None
    return bool(found.client_streaming or not found.server_streaming)


@functools.cache
def gives_secret(method: str) -> bool:
    """Whether a method replies with a secret: a field that the contract marks with debug_redact."""
    found = _descriptor(method)
    return found is not None and any(field.GetOptions().debug_redact for field in found.output_type.fields)


@functools.cache
def uploads(method: str) -> bool:
    """Whether a method takes a stream: it has a record at its start too, since it may last hours."""
    found = _descriptor(method)
    return found is not None and bool(found.client_streaming)


def _named(method: str, request: Message | None) -> Iterator[str]:
    """Resource names in a request: what its fields hold that the contract calls so, and a name of no project."""
    if request is None:
        return
    requirement = _requirement(method)
    yield from _names(getattr(request, "name", ""))
    if requirement is not None:
        yield from _names(requirement.fields.texts(request))


def _made(reply: Message | None) -> Iterator[str]:
    """Names of what a reply describes: the job, dataset or checkpoint that was made or changed."""
    if reply is None:
        return
    for field, value in reply.ListFields():
        if field.message_type is not None and not field.is_repeated and "name" in field.message_type.fields_by_name:
            yield from _names(getattr(value, "name", ""))


def _names(value: Any) -> Iterator[str]:
    texts = [value] if isinstance(value, str) else value
    yield from (text for text in texts if isinstance(text, str) and _NAME.fullmatch(text))
