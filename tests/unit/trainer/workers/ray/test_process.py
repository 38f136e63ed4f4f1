# SPDX-License-Identifier: Apache-2.0
"""When a worker on a cluster is dead, and what is only not known."""

import asyncio
import fcntl
import json
import os
from pathlib import Path

import pytest
from finetree_trainer.scheduling.fit import NotPlacedError
from finetree_trainer.workers.process import LOCK
from finetree_trainer.workers.ray import process as under_test
from finetree_trainer.workers.ray.node import PLACE, boot_id
from finetree_trainer.workers.ray.process import RayProcess, is_dead


@pytest.fixture
def folder(tmp_path) -> Path:
    """A worker's folder, whose worker was started on this machine."""
    made = tmp_path / "w"
    made.mkdir()
    (made / LOCK).touch()
    (made / PLACE).write_text(json.dumps({"boot_id": boot_id()}))
    return made


def elsewhere(folder: Path) -> None:
    (folder / PLACE).write_text(json.dumps({"boot_id": "another machine"}))


def test_a_free_lock_proves_a_death_on_this_machine_alone(folder):
    assert is_dead(folder)
    with (folder / LOCK).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not is_dead(folder)
    elsewhere(folder)
    assert not is_dead(folder)
    (folder / PLACE).unlink()
    assert not is_dead(folder)


async def test_what_ray_has_lost_is_not_dead_before_its_lock_is_free(folder, monkeypatch):
    monkeypatch.setattr(under_test, "WITNESS_SECONDS", 0.0)
    process = RayProcess(folder, 7, lambda _process: None)
    lock = os.open(folder / LOCK, os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    process.on_placed(7)
    process.on_lost()
    assert not process.dead.is_set()
    os.close(lock)
    await asyncio.wait_for(process.dead.wait(), 60)
    assert process.exit


async def test_what_ray_has_lost_elsewhere_is_unknown_until_its_lease_is_over(folder):
    elsewhere(folder)
    said: list[bool] = []
    process = RayProcess(folder, 7, lambda each: said.append(each.killed))
    process.on_placed(7)
    process.on_lost()
    process.terminate()
    assert not process.dead.is_set()
    process.give_up()
    assert process.dead.is_set()
    assert said == [False, True]
    process.kill()
    assert len(said) == 2, "a dead one is not signalled"


async def test_the_word_of_its_actor_is_proof(folder):
    elsewhere(folder)
    process = RayProcess(folder, 7, lambda _process: None)
    process.on_exited("it exited with status 1", overran=True)
    assert process.dead.is_set()
    assert (process.exit, process.overran) == ("it exited with status 1", True)


async def test_one_that_was_not_placed_is_nowhere(folder):
    process = RayProcess(folder, 0, lambda _process: None)
    process.on_refused("its node has gone")
    with pytest.raises(NotPlacedError, match="its node has gone"):
        await process.placed()
    assert process.dead.is_set()
