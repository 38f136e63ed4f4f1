# SPDX-License-Identifier: Apache-2.0
"""docs/examples/dagster_pipeline.py, run by Dagster in an environment of its own, before the fake suite.

What is tried is Dagster's part: runs that are killed, tried again and terminated, and sensors. Its runs of a step are
real; jobs that train for minutes would show nothing more.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from finetree.testing import Script, Suite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

RUNS = Path(__file__).with_name("dagster_runs.py")


def start(environment: Any, suite: Suite, home: Path, *words: str) -> Any:
    return environment.start(RUNS, environment.examples, *words, DAGSTER_HOME=str(home), FINETREE_ADDRESS=suite.address)


def test_runs_that_are_killed_tried_again_and_terminated(environment: Any, tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n", encoding="utf-8")
    with Suite() as suite, suite.client() as client:
        suite.datasets.files["rows.jsonl"] = b'{"text": "a"}\n'
        suite.trainer.script = Script(hold_at=5)
        killed = start(environment, suite, tmp_path, "first")
        try:
            run_id = killed.stdout.readline().strip()
            suite.trainer.attached_at_least(1, timeout=90)
        finally:
            killed.kill()
            said = killed.communicate()[1]
        assert run_id, said
        (job,) = client.list_jobs()
        suite.trainer.advance(job.name)
        suite.trainer.script = Script()
        again = start(environment, suite, tmp_path, "again", run_id)
        printed, said = again.communicate(timeout=150)
        assert again.returncode == 0, said[-3000:]
        told = json.loads(printed.splitlines()[-1])
        # The run was killed with kill -9 while it followed the job; its re-execution follows the same one.
        assert told["again"] == job.name
        # Another run is another job.
        names = [job.name, told["another"], told["deferred"]]
        assert len({found.name for found in client.list_jobs()}) == len(set(names)) == 3
    # Each job that has ended is published once.
    assert told["sensed"] == [sorted(names), []]
    assert told["killed"]["cancel"] == told["killed"]["checkpoint"] == "JOB_STATE_CANCELLED"
    assert told["killed"]["detach"] not in ("JOB_STATE_CANCELLED", "JOB_STATE_FAILED")
    # The step's second try asked for the job once more, and got the one that there was.
    assert told["cut"] == {"jobs": 1, "calls": 2, "cursor": True}
