# SPDX-License-Identifier: Apache-2.0
"""`finetree calibration` against the SDK's fake suite."""

import json
from collections.abc import Iterator

import pytest
from finetree.testing import Suite
from finetree_cli import __main__ as entry


@pytest.fixture
def suite(monkeypatch) -> Iterator[Suite]:
    with Suite() as running:
        monkeypatch.setenv("FINETREE_ADDRESS", running.address)
        yield running


@pytest.fixture
def observed(suite) -> Suite:
    run = {"spec": {"model": {"name": "small"}, "lora": {}, "hardware": {"accelerator": "rtx-4090"}}}
    run["dataset_profile"] = {"examples": 100}
    with suite.client() as client:
        for number in (1, 2):
            job = f"projects/default/jobs/{number}"
            client.report_observation({"job": job, "attempt": 1, "run": run, "step_seconds": 1.2, "steps": 9})
    return suite


def run(capsys, *words: str) -> tuple[int, str, str]:
    code = entry.run(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_factors_and_runs_are_shown_newest_first(observed, capsys):
    code, out, _ = run(capsys, "calibration", "show")
    assert code == 0
    assert "rtx-4090" in out
    assert "x1.10 (0.90 to 1.30)" in out
    assert "calibration-2" in out
    rows = [line.split() for line in out.splitlines() if "lora" in line]
    assert [row[0] for row in rows] == ["2", "1"]
    assert (rows[0][3:5], rows[0][5] != "-") == (["1.2", "s"], True)


def test_json_has_numbers_and_as_many_runs_as_asked_for(observed, capsys):
    code, out, _ = run(capsys, "calibration", "show", "--points", "1", "--json")
    document = json.loads(out)
    assert code == 0
    assert len(document["points"]) == 1
    assert document["entries"][0]["observations"] > 1.5


def test_without_observed_runs_there_is_no_table(suite, capsys):
    code, out, err = run(capsys, "calibration", "show")
    assert (code, len(out.splitlines()), err) == (0, 1, "")


def test_reset_prints_how_many_were_deleted(observed, capsys):
    code, out, err = run(capsys, "calibration", "reset", "rtx-4090")
    assert (code, out.split()[0], err) == (0, "2", "")
    code, out, _ = run(capsys, "calibration", "reset", "--all", "--json")
    assert (code, json.loads(out)) == (0, {"removed": 0})


@pytest.mark.parametrize("words", [(), ("rtx-4090", "--all")])
def test_reset_without_a_device_or_all_deletes_nothing(observed, capsys, words):
    code, out, err = run(capsys, "calibration", "reset", *words)
    assert (code, out) == (2, "")
    assert "--all" in err
    assert len(observed.estimator.observations) == 2
