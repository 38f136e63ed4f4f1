# SPDX-License-Identifier: Apache-2.0
"""Webhooks: each event as a CloudEvent, signed, in the order of the job's log, at least once.

The body is CloudEvents 1.0 in its JSON format (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md);
id, time and signature stand in the headers of Standard Webhooks
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetree.json import to_json
from finetree_api.trainer.v1 import event_pb2, job_pb2

from finetree_cli.sinks.delivery import Comparison, Delivered
from finetree_cli.sinks.http_post import send

PREFIX = "whsec_"
"""Begins a secret as people copy it; what follows is base64."""
MIN_SECRET, MAX_SECRET = 24, 64
"""Bytes of a secret, by Standard Webhooks."""
_DIGITS = 16
"""Digits of a number in `sequence`: numbers stay below 2^53, and receivers order the texts."""


def secret_of(text: str) -> bytes:
    """Decode a secret such as "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".

    Raises:
        ValueError: It is not base64 of 24 to 64 bytes.
    """
    try:
        found = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("must be base64, with or without whsec_ before it") from error
    if not MIN_SECRET <= len(found) <= MAX_SECRET:
        raise ValueError(f"must be {MIN_SECRET} to {MAX_SECRET} bytes in base64, not {len(found)}")
    return found


def identity(event: event_pb2.JobEvent) -> str:
    """Return what a receiver knows a repeated event by."""
    return f"{event.job_uid}/{event.seq}"


def cloud_event(event: event_pb2.JobEvent) -> dict[str, Any]:
    """Write an event of a job as a CloudEvent; `data` is the event as `finetree jobs events --json` prints it."""
    kind = event_pb2.EventKind.Name(event.kind).removeprefix("EVENT_KIND_").lower()
    return {
        "specversion": "1.0",
        "id": identity(event),
        "source": f"//finetree/{event.job}",
        "type": f"finetree.job.{kind}",
        "subject": event.job,
        "time": event.event_time.ToJsonString(),
        "datacontenttype": "application/json",
        "sequence": f"{event.seq:0{_DIGITS}d}",
        "data": to_json(event),
    }


def signature(secret: bytes, message: str, seconds: int, body: bytes) -> str:
    """Sign "id.timestamp.body" by HMAC-SHA256."""
    signed = b".".join((message.encode(), str(seconds).encode(), body))
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


@dataclass(frozen=True, slots=True)
class Webhook:
    """Sends each event to an address."""

    url: str
    secret: bytes = field(repr=False)
    kinds: Sequence[str] = ()
    whole: bool = False

    def reached(self, job: job_pb2.Job, seq: int) -> int:
        """The cursor is all that is known."""
        del job
        return seq

    def deliver(self, job: job_pb2.Job, events: Sequence[event_pb2.JobEvent], remote: str) -> Iterator[Delivered]:
        """Send one after the other; the next only when the one before was taken."""
        del job, remote
        for event in events:
            body = json.dumps(cloud_event(event), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
            message, now = identity(event), int(time.time())
            headers = {
                "Content-Type": "application/cloudevents+json; charset=utf-8",
                "User-Agent": "finetree",
                "webhook-id": message,
                "webhook-timestamp": str(now),
                "webhook-signature": signature(self.secret, message, now, body),
            }
            send(self.url, body, headers)
            yield Delivered(event.seq)

    def compare(self, job: job_pb2.Job, events: Sequence[event_pb2.JobEvent], remote: str) -> Comparison | None:
        """A receiver cannot be asked what it has."""
        del job, events, remote
        return None
