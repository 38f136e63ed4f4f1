# SPDX-License-Identifier: Apache-2.0
"""Events of a job as lines."""

import pytest
from finetree.display.events import event_line, ranks_note
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
    (
        {
            "step_metrics": {
                "step": 2,
                "loss": 1.5,
                "ranks": [{"memory_bytes": 2**30}, {"rank": 1, "memory_bytes": 2**30}],
            }
        },
        "step 2/0  loss 1.500  0 tokens/s  2 ranks, 1.00 GiB",
    ),
    ({"phase_progress": {"phase": job_pb2.JOB_PHASE_TOKENIZE, "fraction": 0.25}}, "reading rows 25%"),
    ({"phase_progress": {"phase": 99, "fraction": 1.0}}, "working 100%"),
    ({"log_line": {"text": "x"}, "message": "x"}, ""),
    ({"state": job_pb2.JOB_STATE_FAILED, "state_changed": {}, "message": "the job has failed"}, ""),
    ({"message": "of a newer service", "kind": 99}, "of a newer service"),
]


@pytest.mark.parametrize(("fields", "line"), CASES, ids=range(len(CASES)))
def test_a_line(fields, line):
    assert event_line(event_pb2.JobEvent(**fields)) == line


def test_however_many_ranks_are_one_part_of_a_line_and_name_whom_the_others_wait_for():
    ranks = [
        event_pb2.RankMetrics(rank=number, memory_bytes=(number + 1) * 2**30, compute_seconds=0.9, wait_seconds=0.1)
        for number in range(64)
    ]
    ranks[7].compute_seconds, ranks[7].wait_seconds, ranks[7].device_id = 1.0, 0.0, "cuda:7"
    assert ranks_note(ranks) == "64 ranks, 1.00 GiB to 64.00 GiB, waited 10% for rank 7 (cuda:7)"
    even = [event_pb2.RankMetrics(rank=number, memory_bytes=2**30, compute_seconds=1.0) for number in range(4)]
    assert ranks_note(even) == "4 ranks, 1.00 GiB"
