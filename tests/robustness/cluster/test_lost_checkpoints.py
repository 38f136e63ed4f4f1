# SPDX-License-Identifier: Apache-2.0
"""Real training on a Ray cluster whose node dies and whose checkpoints are lost: it goes on from the object store."""

import contextlib
import shutil

import psutil
import pytest
from campaign.lost_checkpoints import STEPS, LostCheckpoints
from cluster_nodes import capacity, node_of, on


@pytest.mark.slow(60)
@pytest.mark.timeout(600)
async def test_a_run_that_loses_its_node_and_its_checkpoints_goes_on_on_the_other_node_from_the_store(
    nodes, tmp_path, preloaded, object_store
):
    trainer, worker = (preloaded(kind) for kind in ("trainer", "armed"))
    training = LostCheckpoints(tmp_path, [trainer, worker], object_store, **on(nodes))
    nodes.have("one", "two")
    newest = 0

    async def lose(job: str) -> None:
        nonlocal newest
        # A worker that holds its lock is not proven dead: nobody begins another before the checkpoints are gone.
        (running,) = psutil.Process(worker.process.pid).children()
        running.suspend()
        newest = max(training.stored(job))
        assert newest < STEPS
        node = node_of(await capacity(await training.service.up(), ["one", "two"]), job)
        shutil.rmtree(training.checkpoints(job))
        nodes.kill(node)
        with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended with its node
            running.kill()

    restored = await training.run(lose)
    # Or from one whose upload was under way.
    assert 0 < newest <= restored < STEPS
