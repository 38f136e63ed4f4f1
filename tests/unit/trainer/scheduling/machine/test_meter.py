# SPDX-License-Identifier: Apache-2.0
"""The machine that these tests run on."""

import os
import subprocess
import sys

import pytest
from finetree_trainer.scheduling.machine.meter import MachineMeter, usable_memory
from finetree_trainer.scheduling.machine.nvml import NvmlGpus

TAKE = "import sys; held = bytearray(b'x') * (200 << 20); print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def child():
    """A process in a session of its own that holds 200 MiB."""
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.communicate()


def test_what_a_session_uses_is_read(child):
    reading = MachineMeter(NvmlGpus(), []).read()
    session = reading.sessions[child.pid]
    assert session.pids == (child.pid,)
    assert 200 << 20 <= session.memory < 400 << 20
    assert session.cpu > 0
    assert 0 < reading.free <= reading.total == usable_memory()
    assert 10 << 20 < reading.own < reading.total
    assert reading.busy > 0
    assert os.getsid(0) in reading.sessions
