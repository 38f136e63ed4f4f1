# SPDX-License-Identifier: Apache-2.0
"""Events of a job as lines."""

import pytest
from finetree.display.events import event_line
from finetree_api.trainer.v1 import event_pb2, job_pb2

CASES = [
    (
        {"eval_metrics": {"step": 0, "examples": 180, "exact_match": 0.0}},
        "evaluation at step 0 on 180 rows  exact match 0.0%",
    ),
    (
        {
            "step_metrics": {
                "step": 2,
                "total_steps": 9,
                "loss": 1.5,
                "tokens_per_second": 812.0,
                "eta_seconds": {"expected": 65.0},
            }
        },
        "step 2/9  loss 1.500  812 tokens/s  1 min 5 s left",
    ),
    ({"step_metrics": {"step": 2, "total_steps": 9}}, "step 2/9  loss not finite  0 tokens/s"),
    ({"phase_progress": {"phase": job_pb2.JOB_PHASE_TOKENIZE, "fraction": 0.25}}, "reading rows 25%"),
    ({"phase_progress": {"phase": 99, "fraction": 1.0}}, "working 100%"),
    ({"log_line": {"text": "x"}, "message": "x"}, ""),
    ({"state": job_pb2.JOB_STATE_FAILED, "state_changed": {}, "message": "the job has failed"}, ""),
    ({"message": "of a newer service", "kind": 99}, "of a newer service"),
]


@pytest.mark.parametrize(("fields", "line"), CASES, ids=range(len(CASES)))
def test_a_line(fields, line):
    assert event_line(event_pb2.JobEvent(**fields)) == line
