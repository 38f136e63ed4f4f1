# SPDX-License-Identifier: Apache-2.0
"""How far an evaluation is, and what remains, by the stages that were timed."""

import pytest
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.errors import Cancelled
from finetree_worker.training.evaluation.progress import Progress, Stage
from worker_harness import Recorder

STAGES = [
    Stage("base", "losses", 100),
    Stage("base", "answers", 400),
    Stage("mine", "load", 1),
    Stage("mine", "losses", 100),
    Stage("mine", "answers", 400),
]


def _go_on() -> None:
    return


def test_what_remains_is_what_stages_of_the_same_kind_have_taken() -> None:
    now = 0.0
    recorder = Recorder()
    progress = Progress(STAGES, recorder, _go_on, clock=lambda: now)
    assert progress.remaining() == 0.0, "nothing is known yet"
    now = 10.0
    progress.stage_done()
    now = 90.0
    progress.within(0.5)
    now = 170.0
    progress.stage_done()
    # Loading was not timed: it counts by its units, at the speed of what was.
    speed = 170.0 / (STAGES[0].units + STAGES[1].units)
    assert progress.remaining() == pytest.approx(STAGES[2].units * speed + 10.0 + 160.0)
    progress.stage_done()
    progress.within(0.5)
    assert progress.remaining() == pytest.approx(5.0 + 160.0)
    forecasts = recorder.of(event_pb2.Forecast)
    assert forecasts
    last = forecasts[-1]
    assert last.total_seconds.expected - last.eta_seconds.expected == pytest.approx(170.0)


def test_the_share_grows_to_one_which_is_told_once_at_the_end() -> None:
    recorder = Recorder()
    progress = Progress(STAGES, recorder, _go_on)
    for _ in STAGES:
        for share in (0.2, 0.7, 1.0):
            progress.within(share)
        progress.stage_done()
    told = [event.fraction for event in recorder.of(event_pb2.PhaseProgress)]
    assert told == sorted(told)
    assert told[0] == 0.0
    assert told.count(1.0) == 1
    assert "answers of mine" in recorder.messages[-2]


def test_nothing_to_do_is_done() -> None:
    recorder = Recorder()
    Progress([], recorder, _go_on)
    assert [event.fraction for event in recorder.of(event_pb2.PhaseProgress)] == [1.0]


def test_a_stop_is_noticed_within_a_stage_and_after_it() -> None:
    def stop() -> None:
        raise Cancelled

    progress = Progress(STAGES, Recorder(), stop)
    with pytest.raises(Cancelled):
        progress.within(0.1)
    with pytest.raises(Cancelled):
        progress.stage_done()
