# SPDX-License-Identifier: Apache-2.0
"""Ends what tests of the trainer leave, and makes groups of replicas."""

import pytest
import trainer_harness
from replica_group import Replicas
from trainer_harness import end_workers


@pytest.fixture(autouse=True)
def whole_workers(monkeypatch):
    """A worker is the very process that the trainer has started: tests of this folder stop and kill it by its id."""
    monkeypatch.setattr(trainer_harness, "write_script", trainer_harness.write_whole_script)


@pytest.fixture(autouse=True)
def no_worker_is_left(tmp_path):
    """End the workers that outlive the trainer of a test, as they should."""
    yield
    end_workers(tmp_path)


@pytest.fixture
async def replicas(tmp_path, postgresql):
    made = []

    def make(script, **changes: object) -> object:
        made.append(Replicas(tmp_path, script, postgresql, postgresql.new_schema(), **changes))
        return made[-1]

    yield make
    for each in made:
        await each.end()
