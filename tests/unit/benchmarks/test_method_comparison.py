# SPDX-License-Identifier: Apache-2.0
"""The comparison of the methods: what is measured again and what is kept, and what is reported."""

import json
import math
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.trainer.v1 import event_pb2
from finetree_estimator.catalog.price_book import packaged
from finetree_estimator.estimate import estimate
from finetree_estimator.evidence import observation
from finetree_estimator.spec.resolve import Knowledge
from finetree_runtime.server.validation import validate
from finetree_worker.control import Signal
from finetree_worker.plan import Metric
from google.protobuf import json_format

sys.path.append(str(Path(__file__).parents[3] / "benchmarks" / "worker"))

import method_process
import method_report
import method_statistics
import method_tasks
import methods
from method_runs import METHODS, RATES, Run, chosen_rate, scored_order, tuning_runs

ROOT = Path(__file__).parents[3]
MACHINE = {
    "cores": 1,
    "memory_bytes": 24 * 2**30,
    "bf16_flops_per_second": 200e9,
    "fp32_flops_per_second": 100e9,
    "model_name": "Test CPU",
}
CORRECT = {"full": 114, "lora": 108, "qlora": 102, "prefix": 60, "adapter": 108}
TRAINED = {"full": 134_515_008, "lora": 2_442_240, "qlora": 2_442_240, "prefix": 230_400, "adapter": 2_231_040}
PROFILE = {
    "examples": "480",
    "total_tokens": "17128",
    "target_fraction": 0.1,
    "exact": True,
    "token_lengths": [{"upper_bound": "64", "count": "480"}],
}


def evaluation(correct: int, loss: float) -> dict[str, object]:
    return {
        "step": 0, "loss": loss, "perplexity": 2.0, "exact_match": correct / 120, "questions": 120, "correct": correct,
        "rows": 120, "token_accuracy": 0.9, "seconds": 20.0,
    }  # fmt: skip


def trained(folder: Path) -> dict[str, object]:
    """What a process could measure of the run in a folder."""
    case = json.loads((folder / "case.json").read_text())
    assert (folder / "train.jsonl").read_text().count("\n") >= 100
    method = next(name for name in METHODS if name in case["spec"])
    rate = case["spec"]["training"]["learning_rate"]
    steps = case["spec"]["training"].get("max_steps", 240)
    return {
        "losses": [4.0 / (1 + step) for step in range(steps)],
        "step_seconds": [9.0, 9.0, 9.0] + [0.5] * (steps - 3),
        "evaluations": [evaluation(0, 5.0), evaluation(CORRECT[method], abs(math.log10(rate) + 3) + 0.1)],
        "phase_seconds": {"train": 200.0},
        "profiles": {"train": PROFILE, "evaluation": PROFILE | {"examples": "120", "total_tokens": "4300"}},
        "trainable_parameters": TRAINED[method],
        "total_parameters": 134_515_008,
        "steps": steps,
        "tokens": 145 * steps,
        "target_tokens": 20 * steps,
        "peak_bytes": 3_300_000_000 if method == "full" else 1_300_000_000,
        "artifact_bytes": 9_000_000,
        "versions": {"torch": "2.13.0"},
        "cpu": "Test CPU",
        "end_time": "2026-11-25T20:00:00+00:00",
    }


RATED = [(f"{label} {number}", label) for label in method_tasks.LABELS for number in range(300)]


@pytest.fixture(scope="module", autouse=True)
def tweets_at_hand() -> Iterator[None]:
    """The tweets' archive is not fetched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method_tasks, "vader", lambda folder: folder)
        patch.setattr(method_tasks, "rated_tweets", lambda _: RATED)
        yield


@pytest.fixture
def calls() -> list[Path]:
    """Folders of the processes that were started."""
    return []


@pytest.fixture
def state(tmp_path: Path, calls: list[Path]) -> methods.State:
    def execute(folder: Path) -> dict[str, object]:
        calls.append(folder)
        return trained(folder)

    return methods.State(tmp_path / "state", 1, execute)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> methods.State:
    """A state with all runs of the comparison, and one timed round; nobody may change it."""
    state = methods.State(tmp_path_factory.mktemp("finished"), 1, trained)
    methods.train(state, ["*"], 0)
    for task in ("codes", "tweets"):
        for method in METHODS:
            state.measured(Run(task, method, state.rate(method), purpose="speed", steps=12))
    methods.write_json(state.folder / "machine.json", MACHINE)
    return state


# --------------------------------------------------------------------------------------------------- order, resuming


def test_wherever_the_scored_runs_are_cut_no_method_is_more_than_one_run_ahead() -> None:
    order = scored_order()
    assert len(order) == len(set(order)) == 20
    for cut in range(len(order) + 1):
        counts = [sum(method == name for _, method, _ in order[:cut]) for name in METHODS]
        assert max(counts) - min(counts) <= 1


def test_a_run_is_trained_once_and_its_result_kept(state: methods.State, calls: list[Path]) -> None:
    run = Run("codes", "lora", 1e-3)
    first = state.measured(run)
    again = methods.State(state.folder, 1, lambda _: pytest.fail("trained again")).measured(run)
    assert again == first
    assert len(calls) == 1


def test_a_run_of_another_rate_is_trained_again(state: methods.State, calls: list[Path]) -> None:
    state.measured(Run("codes", "lora", 1e-3))
    found = state.measured(Run("codes", "lora", 5e-4))
    assert len(calls) == 2
    assert found["spec"]["training"]["learning_rate"] == 5e-4


def test_a_script_that_is_stopped_goes_on_where_it_was(state: methods.State, calls: list[Path]) -> None:
    def stopped(folder: Path) -> dict[str, object]:
        if len(calls) == 18:
            raise KeyboardInterrupt
        calls.append(folder)
        return trained(folder)

    with pytest.raises(KeyboardInterrupt):
        methods.train(methods.State(state.folder, 1, stopped), ["*"], 0)
    kept = len(list((state.folder / "runs").iterdir()))
    methods.train(state, ["*"], 0)
    assert kept == 18
    assert len(calls) == len(tuning_runs()) + 20


def test_of_rates_that_learn_equally_well_the_lowest_is_taken() -> None:
    assert chosen_rate({1e-4: 0.5, 1e-3: 0.2, 1e-2: float("inf")}) == 1e-3
    assert chosen_rate({2e-3: 0.251, 4e-3: 0.246}) == 2e-3
    assert chosen_rate({2e-3: 0.26, 4e-3: 0.24}) == 4e-3


def test_a_method_trains_with_its_own_rate_and_qlora_with_that_of_lora(state: methods.State) -> None:
    assert state.rate("qlora") == state.rate("lora") == 1e-3
    assert state.rate("full") == max(RATES["full"])


def test_one_method_is_trained_where_only_it_is_asked_for(state: methods.State) -> None:
    methods.train(state, ["codes-prefix-*"], 0)
    scored = sorted(file.name for file in (state.folder / "runs").glob("scored-*"))
    assert scored == [f"scored-codes-prefix-seed{seed}.json" for seed in (0, 1, 2)]


# ---------------------------------------------------------------------------------------------- the measured process


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("purpose", ["scored", "tuning", "speed"])
def test_the_worker_takes_the_spec_of_every_run(method: str, purpose: str, tmp_path: Path) -> None:
    run = Run("codes", method, 1e-3, seed=1, purpose=purpose)
    case = {"spec": run.spec(), "threads": 2, "model_dir": str(tmp_path)}
    (tmp_path / "case.json").write_text(json.dumps(case))
    plan = method_process.task_plan(tmp_path)
    assert plan.method.name == method
    assert (plan.optimization.epochs, plan.optimization.batch_size) == (2.0, 4)
    assert plan.evaluation.before_training is (purpose == "scored")
    assert (Metric.EXACT_MATCH in plan.evaluation.metrics) is (purpose == "scored")


def test_what_the_worker_tells_is_kept_as_it_was_told() -> None:
    recorder = method_process.Recorder()
    counted = {"trainable_parameters": "10", "parameters": "100"}
    recorder.emit(event_pb2.AttemptStarted(environment=counted), message="attempt 1 starts")
    for step in (1, 2):
        numbers = {"step": step, "loss": 1.0 / step, "processed_tokens": 50 * step, "target_tokens": 5 * step}
        recorder.emit(event_pb2.StepMetrics(total_steps=2, step_seconds=0.5, **numbers))
    recorder.emit(event_pb2.EvalMetrics(step=2, loss=0.7, perplexity=2.0, exact_match=0.75, examples=4, seconds=1.5))
    recorder.emit(event_pb2.Alert(code="NON_FINITE_LOSS", message=""))
    found = recorder.found
    assert found["losses"] == [1.0, 0.5]
    assert (found["steps"], found["tokens"], found["trainable_parameters"]) == (2, 100, 10)
    evaluation = found["evaluations"][0]
    assert [evaluation[name] for name in ("exact_match", "questions", "correct")] == [0.75, 4, 3]
    assert found["alerts"] == ["NON_FINITE_LOSS"]
    assert recorder.poll() is Signal.NONE


# ------------------------------------------------------------------------------------------------------- statistics


def test_a_method_is_compared_with_full_on_the_seeds_that_both_have(finished: methods.State) -> None:
    scored = method_report.kept(finished.folder, "scored")
    cut = [each for each in scored if (each["run"]["method"], each["run"]["seed"]) not in {("full", 1), ("full", 2)}]
    lora = next(row for row in method_statistics.summaries(cut, {}) if (row.task, row.method) == ("codes", "lora"))
    assert lora.seeds == (0, 1, 2)
    assert lora.questions == 360
    assert lora.relative_to_full is not None
    assert lora.relative_to_full.expected == pytest.approx(108 / 114)


def test_the_time_of_a_run_is_that_of_its_steps_at_their_median_and_of_two_evaluations(finished: methods.State) -> None:
    timed = method_statistics.paces(method_report.kept(finished.folder, "speed"))
    rows = method_statistics.summaries(method_report.kept(finished.folder, "scored"), timed)
    assert [row.seconds for row in rows] == [pytest.approx(240 * 0.5 + 2 * 20)] * 10
    assert rows[0].pace is not None
    assert rows[0].pace.tokens_per_second == pytest.approx(290)


# ----------------------------------------------------------------------------------------------------------- report


def test_the_same_state_gives_the_same_bytes_and_the_table_says_what_was_measured(
    finished: methods.State, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        method_report.write(finished.folder, tmp_path / name)
    for file in ("methods.json", "methods.md", "methods.svg", "observations.jsonl"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    table = (tmp_path / "one" / "methods.md").read_text()
    assert "| prefix | 0.0% | 50.0% (50.0% to 50.0%) | 53% (" in table
    assert "Test CPU, threads: 1, 200 GFLOP/s in bfloat16" in table
    found = json.loads((tmp_path / "one" / "methods.json").read_text())
    assert [row["method"] for row in found["summaries"]] == [*METHODS, *METHODS]
    assert len(found["recipe"]["learning_rates"]["tried"]) == len(tuning_runs())
    picture = ET.fromstring((tmp_path / "one" / "methods.svg").read_text())
    assert sum(text.text == "prefix" for text in picture.iter("{http://www.w3.org/2000/svg}text")) == 2


def test_a_state_without_any_timed_run_is_reported_without_times(state: methods.State, tmp_path: Path) -> None:
    methods.train(state, ["codes-*-seed0"], 0)
    method_report.write(state.folder, tmp_path / "report")
    table = (tmp_path / "report" / "methods.md").read_text()
    assert "No speed was measured." in table
    assert "tweets" not in table


def test_a_run_whose_rate_is_no_longer_the_chosen_one_is_left_out_and_named(
    state: methods.State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods.train(state, ["codes-*-seed0"], 0)
    state.measured(Run("codes", "prefix", 0.5))
    capsys.readouterr()
    method_report.write(state.folder, tmp_path / "report")
    assert capsys.readouterr().out.startswith("left out: codes-prefix-0, trained with 0.5 instead of 0.005;")
    assert "| prefix" not in (tmp_path / "report" / "methods.md").read_text()


def accepted(line: str) -> observation.Point:
    """What the estimator makes of a line of observations.jsonl."""
    request = json_format.Parse(line, pb.ReportObservationRequest())
    validate(request)
    return observation.to_point(request.observation, Knowledge(packaged()), estimate)


def test_the_estimator_takes_every_run_and_the_steps_of_those_that_were_timed(
    finished: methods.State, tmp_path: Path
) -> None:
    method_report.write(finished.folder, tmp_path)
    points = [accepted(line) for line in (tmp_path / "observations.jsonl").read_text().splitlines()]
    assert len(points) == 30
    assert {point.measured_step for point in points[:20]} == {0.0}
    assert {point.measured_step for point in points[20:]} == {0.5}
    assert all(point.measured_bytes and point.predicted_step for point in points)
    assert {point.device for point in points} == {"Test CPU, 1 cores"}


COMMITTED = ROOT / "benchmarks" / "results" / "worker"


@pytest.mark.skipif(not (COMMITTED / "observations.jsonl").exists(), reason="no results are committed yet")
def test_the_estimator_takes_the_committed_observations() -> None:
    lines = (COMMITTED / "observations.jsonl").read_text().splitlines()
    assert lines
    for line in lines:
        accepted(line)


def test_the_playbooks_claims_are_those_of_its_pack() -> None:
    text = (ROOT / "services/recommender/finetree_recommender/rule_pack/packs/playbook-1.yaml").read_text()
    for percent in method_report.PLAYBOOK.values():
        assert f"expected: {percent}," in text
