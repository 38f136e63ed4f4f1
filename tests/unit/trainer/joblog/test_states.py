# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN202 - inner functions say what they return by their names
from finetree_api.trainer.v1 import job_pb2
from finetree_trainer.joblog import states

KNOWN = set(job_pb2.JobState.values()) - {job_pb2.JOB_STATE_UNSPECIFIED}


def test_every_state_is_terminal_or_can_be_left_and_is_reached():
    assert set(states.FOLLOWERS) | states.TERMINAL == KNOWN | {job_pb2.JOB_STATE_UNSPECIFIED}
    assert not set(states.FOLLOWERS) & states.TERMINAL
    assert set().union(*states.FOLLOWERS.values()) == KNOWN
    assert KNOWN == states.LIVE | states.TERMINAL


def test_every_live_state_can_end_cancelled():
    def reaches(state, seen=()):
        following = states.FOLLOWERS.get(state, frozenset())
        return job_pb2.JOB_STATE_CANCELLED in following or any(
            reaches(other, (*seen, state)) for other in following if other not in seen
        )

    assert all(reaches(state) for state in states.LIVE)
