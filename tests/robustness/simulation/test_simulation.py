# SPDX-License-Identifier: Apache-2.0
"""Seeds of the simulation: no promise is broken, every fault happens, a seed repeats itself, planted bugs are found.

More of them: `make soak`, or `python tests/robustness/simulation/run.py 1 10000`. `run.py N N` repeats a seed
that a failure names.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow(52), pytest.mark.timeout(900)]
PROGRAM = Path(__file__).with_name("run.py")
SEEDS, EACH = 200, 100
AGAIN = (4, 6)
"""Seeds that are run twice, by two processes."""
ALWAYS = (
    "a cancel was acknowledged",
    "a job ended cancelled",
    "a job ended succeeded",
    "a job had several attempts",
    "a job lost what it was promised",
    "a job waited for memory",
    "a job was preempted",
    "a living worker was adopted",
    "a preempted job waited again",
    "a stream was cut",
    "a watcher came back",
    "a worker gave an absent trainer up",
    "a worker resumed from a checkpoint",
    "a worker was frozen",
    "a worker was killed",
    "a write met a full disk",
    "an answer was lost",
    "the clock went back",
    "the disk was full",
    "the trainer was killed",
    "the trainer was killed while it started",
    "three slots had work for two",
)
"""What must have happened among each 100 seeds: else they prove less than they claim."""


def simulate(first: int, last: int, *more: str, hash_seed: str = "0") -> list[dict[str, Any]]:
    """Run seeds in a process of their own: what each came to, what was seen, which bugs were found."""
    command = [sys.executable, str(PROGRAM), str(first), str(last), *more]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode in (0, 1), done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def campaign():
    return simulate(1, SEEDS, "--each", str(EACH))


@pytest.fixture(scope="module")
def second():
    """Another process, in which sets and dictionaries have another order, and bugs are planted after the seeds."""
    return simulate(*AGAIN, "--bugs", hash_seed="7")


def test_no_seed_breaks_a_promise(campaign):
    outcomes = [each for each in campaign if "seed" in each]
    assert [outcome["seed"] for outcome in outcomes] == list(range(1, SEEDS + 1))
    assert {outcome["seed"]: outcome["violations"] for outcome in outcomes if outcome["violations"]} == {}


def test_everything_that_should_happen_happens_among_few_seeds(campaign):
    seen = [Counter(each["seen"]) for each in campaign if "seen" in each]
    assert len(seen) == SEEDS // EACH
    assert [[name for name in ALWAYS if not some[name]] for some in seen] == [[] for _ in seen]


def test_a_seed_always_gives_the_same_run(campaign, second):
    first, last = AGAIN
    one, other = ([each for each in lines if first <= each.get("seed", 0) <= last] for lines in (campaign, second))
    other = [each for each in other if "digest" in each]
    assert one == other
    assert len({outcome["digest"] for outcome in one}) == last - first + 1


def test_every_planted_bug_is_found(second):
    found = [each for each in second if "bug" in each]
    assert len(found) >= 12
    assert [each["bug"] for each in found if not each["seed"]] == []
