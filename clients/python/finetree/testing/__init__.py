# SPDX-License-Identifier: Apache-2.0
"""A small suite inside this process, for tests of programs that use the SDK: real gRPC over loopback, invented answers.

    with finetree.testing.Suite() as suite:
        client = suite.client()
        suite.trainer.disconnect_after(7)
        job = client.create_job({"model": {"name": "tiny"}, "lora": {"rank": 8}})
        assert [event.seq for event in job.events()] == list(range(1, job.refresh().last_seq + 1))

`python -m finetree.testing` serves one in a process of its own and prints its address.
"""

from finetree.testing.faults import Faults, Recorded
from finetree.testing.script import Script
from finetree.testing.suite import Suite
from finetree.testing.trainer import FakeTrainer

__all__ = ["FakeTrainer", "Faults", "Recorded", "Script", "Suite"]
