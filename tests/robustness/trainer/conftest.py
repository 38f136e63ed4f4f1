# SPDX-License-Identifier: Apache-2.0
"""Ends what tests of the trainer leave, and makes groups of replicas."""

import pytest
from replica_group import Replicas
from trainer_harness import end_workers


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
