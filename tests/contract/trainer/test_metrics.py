# SPDX-License-Identifier: Apache-2.0
"""QueryMetrics over loopback: curves of a job, and of one with two attempts."""

import math

import grpc
import pytest
from finetree_api.trainer.v1 import metrics_pb2
from trainer_harness import refusal, trainer


async def test_curves_are_those_of_the_events(tmp_path, serve):
    async with serve(tmp_path, {"steps": 40}) as talk:
        job = await talk.train()
        events = await talk.events(job.name)
        losses = {
            event.step_metrics.step: event.step_metrics.loss for event in events if event.HasField("step_metrics")
        }
        request = metrics_pb2.QueryMetricsRequest(name=job.name, metrics=["loss"], max_points=10)
        found = await talk.stub.QueryMetrics(request)
        everything = await talk.stub.QueryMetrics(metrics_pb2.QueryMetricsRequest(name=job.name))
        request.name = job.name + "0"
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.stub.QueryMetrics(request)
    (curve,) = found.series
    assert len(losses) == 40
    assert (curve.name, curve.unit) == ("loss", "nats")
    assert (found.steps_per_point, found.last_step) == (4, 40)
    assert (found.last_seq, found.oldest_seq) == (len(events), 1)
    assert [(point.first_step, point.last_step, point.count) for point in curve.points] == [
        (step, step + 3, 4) for step in range(1, 41, 4)
    ]
    for point in curve.points:
        values = [losses[step] for step in range(point.first_step, point.last_step + 1)]
        assert (point.value, point.min, point.max) == (values[-1], min(values), max(values))
        assert math.isclose(point.mean, sum(values) / 4)
    assert {"loss", "learning_rate"} <= {series.name for series in everything.series}
    assert refusal(error.value)[:2] == ("NOT_FOUND", "JOB_NOT_FOUND")


async def test_curves_of_a_job_that_was_recovered(tmp_path):
    async with trainer(tmp_path, {"steps": 200, "kill_at": {"1": 120}}) as talk:
        job = await talk.train()
        events = await talk.events(job.name)
        request = metrics_pb2.QueryMetricsRequest(name=job.name, metrics=["loss", "learning_rate"], max_points=10)
        found = await talk.stub.QueryMetrics(request)
        assert [series.name for series in found.series] == ["loss", "learning_rate"]
        assert (found.steps_per_point, found.last_step) == (32, 200)
        assert (found.last_seq, found.oldest_seq) == (len(events), 1)
        loss = found.series[0]
        assert loss.unit == "nats"
        assert len(loss.points) == 7
        assert sum(point.count for point in loss.points) == 200
        assert (loss.points[0].max, loss.points[-1].value) == (4.0, 4 / 200)
        request.first_step, request.last_step, request.max_points = 50, 53, 0
        part = (await talk.stub.QueryMetrics(request)).series[0]
        assert [point.value for point in part.points] == [4 / step for step in range(50, 54)]
        assert part.points[0].time.ToMicroseconds() > 0
        everything = await talk.stub.QueryMetrics(metrics_pb2.QueryMetricsRequest(name=job.name))
        assert {series.name for series in everything.series} >= {"loss", "learning_rate"}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"metrics": ["lose"]}, "metrics[0]"),
        ({"first_step": 3, "last_step": 2}, "last_step"),
        ({"max_points": -1}, "max_points"),
    ],
)
async def test_a_query_that_cannot_be_answered_names_the_field(tmp_path, serve, fields, field):
    async with serve(tmp_path, {"steps": 2}) as talk:
        job = await talk.train()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await talk.stub.QueryMetrics(metrics_pb2.QueryMetricsRequest(name=job.name, **fields))
        assert refusal(error.value)[:2] == ("INVALID_ARGUMENT", "INVALID_REQUEST")
        assert str(error.value.details()).startswith(field)
