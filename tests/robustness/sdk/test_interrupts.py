# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C at any moment of a stream: the program ends, and at once."""

import json
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from finetree._sync.connections import CLOSE_SECONDS
from finetree.testing import Script

PROGRAM = Path(__file__).with_name("interrupted.py")
LATE = CLOSE_SECONDS + 60.0
"""A hang has no end; a busy machine takes its time."""


@pytest.fixture
def held(suite, spec):
    suite.trainer.script = Script(hold_at=5)
    with suite.client() as client:
        return client.create_job(spec).name


def test_interrupts_at_random_moments(suite, held):
    command = [sys.executable, str(PROGRAM), suite.address, held, "0.016"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=150)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["interrupts"] >= 50
    assert told["slowest"] < LATE


def test_a_channel_on_which_a_call_was_lost_closes_in_time(suite, held, monkeypatch):
    """What an interrupt inside of gRPC leaves: a call without the thread that delivers its events."""

    def interrupted(_state: object) -> None:
        raise KeyboardInterrupt

    client = suite.client()
    with monkeypatch.context() as patch:
        patch.setattr(grpc._channel, "_run_channel_spin_thread", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(client.job(held).events())
    stream = client.job(held).events()
    assert [next(stream).seq for _ in range(5)] == [1, 2, 3, 4, 5]
    started = time.monotonic()
    client.close()
    assert time.monotonic() - started < LATE
