# SPDX-License-Identifier: Apache-2.0
"""Sweeps as text: the best trial is marked by a word, in a table and in the records of a narrow terminal."""

import pytest
from finetree_api.trainer.v1 import sweep_pb2
from finetree_cli import tables
from finetree_cli.output import Output
from finetree_cli.render.trainer.results.sweeps import show_sweep


@pytest.mark.parametrize(("narrow", "expected"), [(False, " 2 (best) "), (True, "\nTrial 2 (best)\n")])
def test_the_best_trial_is_marked_by_a_word(capsys, monkeypatch, narrow, expected):
    if narrow:
        monkeypatch.setattr(tables, "column_widths", lambda *_, **__: None)
    sweep = sweep_pb2.Sweep(name="projects/default/sweeps/1", best_trial=2)
    for number in (1, 2):
        sweep.trials.add(number=number, state=sweep_pb2.TRIAL_STATE_SUCCEEDED, value=1.5)
    show_sweep(Output(), sweep)
    out = capsys.readouterr().out
    assert expected in out
    assert "*" not in out
