# SPDX-License-Identifier: Apache-2.0
"""One pool of processes for all tests of the folder, which the first of several test processes runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def pool() -> Iterator[Any]:
    from rank_pool import Pool

    pool = Pool()
    yield pool
    pool.close()


@pytest.fixture
def together(pool: Any, tmp_path: Path) -> Any:
    """Trains a plan on so many ranks: together(plan, 2, "full"); returns the recorder of rank 0."""
    from worker_harness import Recorder

    def run(plan: Any, count: int, sharding: str = "replicated", recorder: Any = None) -> Any:
        recorder = recorder or Recorder()
        found = pool.run("train", plan, recorder, count=count, sharding=sharding, folder=tmp_path / "groups")
        recorder.outcome = found[0]
        return recorder

    return run
