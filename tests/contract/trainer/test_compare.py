# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN002, ANN003 - arguments here are names, fields of a request and keys of a script
"""CompareJobs: what differs, how it went, and which job is better where that can be told."""

import grpc
import pytest
from finetree_api.trainer.v1 import comparison_pb2, job_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2
from trainer_harness import ROWS, jsonl, refusal, trainer, write_script

ROWS_A = "a" * 64


def evaluation(loss, *, rows=ROWS_A, step=20, error=0.01, **fields):
    found = {"step": step, "loss": loss, "loss_standard_error": error, "rows": 100, "rows_sha256": rows}
    return found | fields


async def compare(talk, *names, **fields):
    return await talk.stub.CompareJobs(comparison_pb2.CompareJobsRequest(names=names, **fields))


class Runs:
    """Makes jobs of one dataset, each with a script of its own."""

    def __init__(self, talk, folder) -> None:
        self.talk, self.folder, self.dataset = talk, folder, ""

    async def run(self, *, rank: int = 8, **script) -> str:
        write_script(self.folder, {"steps": 20, **script})
        self.dataset = self.dataset or (await self.talk.upload(jsonl(ROWS))).name
        spec = run_spec_pb2.RunSpec(lora=method_pb2.Lora(rank=rank))
        job = await self.talk.train(
            dataset=self.dataset, task=job_pb2.TrainTask(spec=spec), display_name=f"rank {rank}"
        )
        await self.talk.events(job.name)
        return job.name


@pytest.fixture
async def runs(tmp_path):
    async with trainer(tmp_path) as talk:
        yield Runs(talk, tmp_path)


async def test_a_job_that_is_better_by_more_than_chance_is_named(runs):
    first = await runs.run(rank=4, evaluations=[evaluation(2.0, step=0), evaluation(1.5)])
    second = await runs.run(rank=8, evaluations=[evaluation(2.0, step=0), evaluation(1.3)], environment={"torch": "2"})
    third = await runs.run(rank=16, evaluations=[evaluation(1.6)], environment={"torch": "2"})
    found = await compare(runs.talk, first, second, third)
    assert [job.name for job in found.jobs] == [first, second, third]
    best = found.best
    assert (best.job, best.metric, best.difference) == (1, "eval_loss", pytest.approx(0.2))
    # z of 5 % over two comparisons, and the root of the sum of both squared errors.
    half = 2.241 * 0.01 * 2**0.5
    assert best.interval.low == pytest.approx(0.2 - half, abs=1e-4)
    assert best.interval.high == pytest.approx(0.2 + half, abs=1e-4)
    assert [remark.code for remark in found.remarks] == ["ONE_RUN_EACH"]
    loss, training = found.metrics
    assert (loss.metric, loss.comparable, loss.best, loss.unit) == ("eval_loss", True, 1, "nats")
    assert [value.value for value in loss.values] == [1.5, 1.3, 1.6]
    assert loss.values[0].before == 2.0
    assert not loss.values[2].HasField("before")
    assert loss.values[0].interval.low == pytest.approx(1.5 - 1.96 * 0.01, abs=1e-4)
    assert (training.metric, training.comparable, training.HasField("best")) == ("loss", False, False)
    assert training.values[0].value == pytest.approx(sum(4 / step for step in range(1, 21)) / 20)
    assert training.values[0].count == 20


async def test_settings_that_differ_are_named_with_their_source_and_no_others(runs):
    same = await runs.run(rank=8, environment={"torch": "2", "machine": "x"})
    other = await runs.run(rank=16, environment={"torch": "3", "machine": "x"})
    found = await compare(runs.talk, same, other)
    differences = {each.field_path: each.values for each in found.differences}
    assert differences.keys() >= {"lora.rank", "environment.torch"}
    assert not any("dataset" in path or "machine" in path for path in differences)
    assert [value.value.number_value for value in differences["lora.rank"]] == [8, 16]
    assert [value.rule_id for value in differences["lora.rank"]] == ["request", "request"]
    assert [value.value.string_value for value in differences["environment.torch"]] == ["2", "3"]


async def test_curves_of_runs_with_other_lengths_lie_on_one_axis(runs):
    short = await runs.run(loss=[3.0 - step / 10 for step in range(20)], evaluations=[evaluation(2.0, step=0)])
    long = await runs.run(steps=300)
    found = await compare(runs.talk, short, long, max_points=50)
    assert (found.axis, found.units_per_point) == (comparison_pb2.CURVE_AXIS_STEP, 8)
    curves = {(curve.metric, curve.job): curve.points for curve in found.curves}
    assert curves.keys() == {("loss", 0), ("loss", 1), ("eval_loss", 0)}
    assert [point.position for point in curves["loss", 0]] == [8, 16, 24]
    assert [point.position for point in curves["loss", 1]] == [8.0 * n for n in range(1, 39)]
    first = curves["loss", 0][0]
    assert (first.step, first.count, first.min, first.max) == (8, 8, pytest.approx(2.3), 3.0)
    assert first.mean == pytest.approx(2.65)
    assert [(point.position, point.mean) for point in curves["eval_loss", 0]] == [(0, 2.0)]
    tokens = await compare(runs.talk, short, long, axis=comparison_pb2.CURVE_AXIS_TOKENS, metrics=["loss"])
    assert tokens.units_per_point == 512
    assert {point.position % 512 for curve in tokens.curves for point in curve.points} == {0}
    epochs = await compare(runs.talk, short, long, axis=comparison_pb2.CURVE_AXIS_EPOCH, metrics=["loss"])
    assert epochs.units_per_point == 1 / 16
    assert max(point.position for curve in epochs.curves for point in curve.points) == 1


async def test_time_memory_estimates_and_answers_stand_side_by_side(runs):
    asked = {"prompt": "why", "expected": "so", "before": "hm"}
    summary = {"total_seconds": 90.0, "peak_memory_bytes": 2**31, "steps": 20, "best_step": 10}
    samples = [asked | {"after": "so", "exact_match": True}, {"prompt": "else", "after": "x"}]
    first = await runs.run(samples=samples, summary=summary)
    second = await runs.run(samples=[asked | {"after": "no"}], summary=summary | {"total_seconds": 30.0})
    found = await compare(runs.talk, first, second)
    one, two = found.jobs
    assert (one.state, one.method, one.steps, one.total_steps) == (job_pb2.JOB_STATE_SUCCEEDED, "lora", 20, 20)
    assert (one.seconds, two.seconds, one.step_seconds, one.tokens_per_second) == (90, 30, 0.5, 200)
    assert (one.peak_memory_bytes, one.published_step, one.processed_tokens, one.epochs) == (2**31, 10, 2000, 1)
    outcomes = {each.quantity: each for each in one.estimates}
    took = outcomes[comparison_pb2.ESTIMATED_QUANTITY_TOTAL_SECONDS]
    assert (took.estimated.expected, took.actual, took.ratio, took.inside) == (60, 90, 1.5, False)
    memory = outcomes[comparison_pb2.ESTIMATED_QUANTITY_DEVICE_BYTES]
    assert (memory.ratio, memory.actual) == (2, 2**31)
    cost = outcomes[comparison_pb2.ESTIMATED_QUANTITY_COST]
    assert (cost.currency_code, cost.HasField("actual")) == ("EUR", False)
    (sample,) = found.samples
    assert (sample.prompt, sample.expected) == ("why", "so")
    assert [(answer.asked, answer.before, answer.after) for answer in sample.answers] == [
        (True, "hm", "so"),
        (True, "hm", "no"),
    ]
    assert [answer.exact_match for answer in sample.answers] == [True, False]


async def test_what_cannot_be_compared_is_refused(runs):
    trains = await runs.run()
    prepares = (await runs.talk.prepare(dataset=runs.dataset)).name
    for names, fields, wanted, field in (
        ((trains, prepares), {}, ("FAILED_PRECONDITION", "NOT_COMPARABLE"), None),
        ((trains, trains.rpartition("/")[2]), {}, ("INVALID_ARGUMENT", "INVALID_REQUEST"), "names[1]"),
        ((trains,), {}, ("INVALID_ARGUMENT", "INVALID_REQUEST"), "names"),
        ((trains, trains[:-4] + "0000"), {}, ("NOT_FOUND", "JOB_NOT_FOUND"), None),
        ((trains, prepares), {"metrics": ["lose"]}, ("INVALID_ARGUMENT", "INVALID_REQUEST"), "metrics[0]"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await compare(runs.talk, *names, **fields)
        code, reason, info, violations = refusal(error.value)
        assert (code, reason) == wanted, names
        assert field is None or violations[0].field == field
        assert reason != "NOT_COMPARABLE" or info.metadata["job"] == prepares


async def test_a_job_that_runs_is_compared_as_it_is(runs):
    done = await runs.run()
    write_script(runs.folder, {"steps": 10**6, "delay": 0.05})
    running = (await runs.talk.train(dataset=runs.dataset)).name
    await runs.talk.until(running, lambda event: event.step_metrics.step == 3)
    found = await compare(runs.talk, done, running)
    assert {remark.code for remark in found.remarks} == {"JOBS_RUNNING", "TOO_FEW_SUCCEEDED"}
    assert found.jobs[1].steps >= 3
    assert not found.jobs[1].HasField("seconds")
    await runs.talk.cancel(running)
