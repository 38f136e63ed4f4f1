# SPDX-License-Identifier: Apache-2.0
"""Kills of the service and of its workers, at every fail point and at random moments, under the eyes of clients."""

import ast
import collections
import os
import random
import time
from pathlib import Path

import pytest
from campaign.campaign import OF_SERVICE, OF_WORKER, Campaign, Service, in_order, rows
from campaign.scripted_training import weights_after
from finetree_data.fail_points import POINTS

SERVICES = Path(__file__).resolve().parents[3] / "services/trainer"
SEED = int(os.environ.get("FINETREE_SEED", "1")) or random.randrange(1, 10**6)
RANDOM_KILLS = int(os.environ.get("FINETREE_RANDOM_KILLS", "40"))
ROUNDS = int(os.environ.get("FINETREE_ROUNDS", "1"))
"""How often the service ends at each fail point; `make soak` asks for more of all of them."""
IN_TRAINING = [name for name in OF_WORKER if name.startswith("checkpoint.")]
"""Places in the loop that trains with torch: test_real_training.py has them."""


def places() -> collections.Counter[str]:
    """Fail points in the code of the services."""
    found: collections.Counter[str] = collections.Counter()
    for file in SERVICES.rglob("finetree_*/**/*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "fail_point":
                assert isinstance(node.args[0], ast.Constant), file
                found[node.args[0].value] += 1
    return found


def test_every_fail_point_stands_at_one_place_in_the_code():
    assert places() == dict.fromkeys(POINTS, 1)
    assert len(POINTS) >= 20


@pytest.mark.slow(70)
@pytest.mark.timeout(3600)
async def test_the_service_and_its_workers_die_everywhere_and_no_promise_is_broken(tmp_path, preloaded):
    print(f"FINETREE_SEED={SEED}")
    shuffle = random.Random(SEED)
    points = [point for _ in range(ROUNDS) for point in in_order(OF_SERVICE, shuffle)]
    turns = [point for _ in range(ROUNDS) for point in OF_WORKER if point not in IN_TRAINING]
    loaded = [preloaded(kind) for kind in ("trainer", "scripted")]
    service = Service(tmp_path, *[each.wait() for each in loaded], cpu_slots=2)
    campaign = Campaign(service, seed=SEED, content=rows)
    began = time.monotonic()
    await campaign.run(points, random_kills=RANDOM_KILLS, worker_turns=turns)
    campaign.assert_whole()
    assert set(campaign.reached) == set(OF_SERVICE)
    assert set(campaign.worker_deaths()) == set(turns)
    trained = [each for client in campaign.clients for each in client.weights.values()]
    assert all(weights == weights_after(content) for content, weights in trained)
    dead = f"{campaign.kills} kills of the service, {len(campaign.worker_deaths())} of workers"
    print(f"{dead}, {len(trained)} jobs trained, {time.monotonic() - began:.0f} s")
