# SPDX-License-Identifier: Apache-2.0
"""A small suite inside this process, for tests of programs that use the SDK: real gRPC over loopback, invented answers.

    with finetree.testing.Suite() as suite:
        client = suite.client()
        data = client.upload_dataset([{"prompt": "One and one?", "completion": "Two."}])
        suite.disconnect_after(7)
        job = client.train({"model": {"name": "tiny"}, "lora": {"rank": 8}, "dataset": {"name": data.name}})
        assert [event.seq for event in job.events()] == list(range(1, job.refresh().last_seq + 1))

`python -m finetree.testing` serves one in a process of its own and prints its address. With pytest, the fixture
`finetree_suite` is there where the SDK is installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetree.testing.clock import Clock
    from finetree.testing.faults import Faults, Recorded
    from finetree.testing.suite import Suite
    from finetree.testing.trainer import FakeTrainer, Replay, Script

_HOMES = {
    "Clock": "clock",
    "FakeTrainer": "trainer",
    "Faults": "faults",
    "Recorded": "faults",
    "Replay": "trainer",
    "Script": "trainer",
    "Suite": "suite",
}

__all__ = ["Clock", "FakeTrainer", "Faults", "Recorded", "Replay", "Script", "Suite"]


def __getattr__(name: str) -> Any:
    # The pytest plugin lies here and is imported in every test run: gRPC is loaded when a suite is.
    if name not in _HOMES:
        raise AttributeError(f"module 'finetree.testing' has no attribute {name!r}")
    return getattr(import_module(f"finetree.testing.{_HOMES[name]}"), name)
