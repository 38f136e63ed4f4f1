# SPDX-License-Identifier: Apache-2.0
"""Seeds of the simulation: no promise is broken, every fault happens, a seed repeats itself, planted bugs are found.

More of them: `make soak`, or `python tests/robustness/simulation/run.py 1 10000`. A seed that is named by a failure XX
"""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow(49), pytest.mark.timeout(300)]
PROGRAM = Path(__file__).with_name("run.py")
CHUNKS = ((1, 50), (51, 100))
ALWAYS = (
    "a cancel was acknowledged",
    "a job ended cancelled",
    "a job ended succeeded",
    "a job had several attempts",
    "a job lost what it was promised",
    "a job waited for memory",
    "a living worker was adopted",
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
"""What must have happened within every chunk: else its seeds prove less than they claim."""


def simulate(first: int, last: int, *more: str, hash_seed: str = "0") -> tuple[list[dict[str, Any]], Counter[str]]:
    """What seeds came to, and what happened in them."""
    command = [sys.executable, str(PROGRAM), str(first), str(last), *more]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode in (0, 1), done.stderr[-2000:]
    *outcomes, seen = [json.loads(line) for line in done.stdout.splitlines()]
    return outcomes, Counter(seen["seen"])


@pytest.mark.parametrize(("first", "last"), CHUNKS)
def test_no_seed_breaks_a_promise(first, last):
    outcomes, seen = simulate(first, last)
    assert len(outcomes) == last - first + 1
    assert {outcome["seed"]: outcome["violations"] for outcome in outcomes if outcome["violations"]} == {}
    assert [name for name in ALWAYS if not seen[name]] == []


def test_a_seed_always_gives_the_same_run():
    one, _ = simulate(4, 6)
    other, _ = simulate(4, 6, hash_seed="7")
    assert one == other
    assert len({outcome["digest"] for outcome in one}) == 3


def test_every_planted_bug_is_found():
    found, _ = simulate(0, 0, "--bugs")
    assert len(found) >= 12
    assert [each["bug"] for each in found if not each["seed"]] == []
