# SPDX-License-Identifier: Apache-2.0
"""Signatures as Standard Webhooks has them, and events as CloudEvents."""

import base64

import pytest
from finetree_api.trainer.v1 import event_pb2
from finetree_cli.sinks.webhook import cloud_event, secret_of, signature

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""Secret, message, time and signature are those of the tests of the Standard Webhooks libraries."""


def test_the_signature_is_that_of_standard_webhooks():
    made = signature(secret_of(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("changed", ["id", "time", "body", "secret"])
def test_a_changed_byte_changes_the_signature(changed):
    values = {"id": "a/1", "time": 1, "body": b"{}", "secret": secret_of(SECRET)}
    other = values | {"id": "a/2", "time": 2, "body": b"{ }", "secret": b"x" * 24}
    mixed = values | {changed: other[changed]}
    assert signature(mixed["secret"], mixed["id"], mixed["time"], mixed["body"]) != signature(
        values["secret"], values["id"], values["time"], values["body"]
    )


@pytest.mark.parametrize("text", ["whsec_short", "whsec_!!!!", base64.b64encode(b"x" * 65).decode(), ""])
def test_a_secret_of_the_wrong_kind_is_refused(text):
    with pytest.raises(ValueError, match="must be"):
        secret_of(text)


def test_an_event_has_what_a_receiver_needs_to_order_and_to_know_it():
    event = event_pb2.JobEvent(job="projects/p/jobs/u", job_uid="u", seq=9, kind=event_pb2.EVENT_KIND_TERMINAL)
    event.event_time.FromJsonString("2026-01-01T00:00:00.5Z")
    later = event_pb2.JobEvent(job="projects/p/jobs/u", job_uid="u", seq=10)
    made = cloud_event(event)
    assert {name: made[name] for name in ("specversion", "id", "source", "type", "time")} == {
        "specversion": "1.0",
        "id": "u/9",
        "source": "//finetree/projects/p/jobs/u",
        "type": "finetree.job.terminal",
        "time": "2026-01-01T00:00:00.500Z",
    }
    assert made["sequence"] < cloud_event(later)["sequence"]
    assert made["data"]["seq"] == 9
