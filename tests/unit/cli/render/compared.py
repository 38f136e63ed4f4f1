# SPDX-License-Identifier: Apache-2.0
"""A comparison of three jobs as a trainer answers it: two told apart, and one that has failed."""

import math

from finetree_api.trainer.v1 import comparison_pb2, job_pb2
from finetree_api.types.v1 import check_pb2, evidence_pb2
from google.protobuf import struct_pb2
from google.type import money_pb2

NAMES = [f"projects/default/jobs/0199f000-0000-7000-8000-00000000000{n}" for n in range(3)]
LOSSES = {0: 1.42, 1: 1.31}


def comparison() -> comparison_pb2.CompareJobsResponse:
    found = comparison_pb2.CompareJobsResponse(axis=comparison_pb2.CURVE_AXIS_STEP, units_per_point=4)
    for index, (name, shown) in enumerate(zip(NAMES, ("baseline", "rank 16 <b>|x|", ""), strict=True)):
        job = found.jobs.add(name=name, display_name=shown, method="lora", steps=200, total_steps=200)
        job.state = job_pb2.JOB_STATE_FAILED if index == 2 else job_pb2.JOB_STATE_SUCCEEDED
        job.processed_tokens, job.epochs, job.attempts = 204_800, 2.0, 1
        if index < 2:
            job.seconds, job.step_seconds, job.peak_memory_bytes = 310.0 + 80 * index, 1.4, 3 << 30
            job.cost.CopyFrom(money_pb2.Money(currency_code="USD", units=1, nanos=250_000_000))
            estimated = evidence_pb2.Interval(low=200, expected=300, high=350, coverage=0.9)
            quantity = comparison_pb2.ESTIMATED_QUANTITY_TOTAL_SECONDS
            actual = job.seconds
            job.estimates.add(
                quantity=quantity, estimated=estimated, actual=actual, ratio=actual / 300, inside=actual <= 350
            )
    rank = found.differences.add(field_path="lora.rank")
    for number, rule in ((8, "default"), (16, "request"), (None, "")):
        value = None if number is None else struct_pb2.Value(number_value=number)
        rank.values.add(value=value, rule_id=rule)
    for index in range(3):
        losses = found.curves.add(metric="loss", unit="nats", job=index)
        for step in range(4, 204 if index < 2 else 80, 4):
            mean = 1.1 + (1.6 + 0.3 * index) * math.exp(-step / 60) - 0.1 * index
            losses.points.add(position=step, step=step, mean=mean, min=mean - 0.1, max=mean + 0.1, count=4)
    for index in range(2):
        evaluated = found.curves.add(metric="eval_loss", unit="nats", job=index)
        for step in (0, 100, 200):
            mean = LOSSES[index] + 0.6 * math.exp(-step / 60)
            evaluated.points.add(position=step, step=step, mean=mean, min=mean, max=mean, count=1)
    loss = found.metrics.add(metric="eval_loss", unit="nats", comparable=True, best=1)
    training = found.metrics.add(metric="loss", unit="nats")
    for index in range(3):
        measured = loss.values.add()
        if index < 2:
            value, measured.before = LOSSES[index], 2.0
            measured.value, measured.standard_error, measured.count, measured.step = value, 0.02, 200, 200
            measured.interval.CopyFrom(
                evidence_pb2.Interval(low=value - 0.04, expected=value, high=value + 0.04, coverage=0.95)
            )
        training.values.add(value=1.2 - 0.1 * index, count=20, step=200)
    sample = found.samples.add(prompt="What is\nthe capital?", expected="Paris")
    sample.answers.add(asked=True, before="?", after="Paris", exact_match=True)
    sample.answers.add(asked=True, after="Lyon " * 100)
    sample.answers.add()
    found.best.CopyFrom(comparison_pb2.BestJob(job=1, metric="eval_loss", difference=0.11))
    found.best.interval.CopyFrom(evidence_pb2.Interval(low=0.053, expected=0.11, high=0.167, coverage=0.95))
    found.remarks.append(check_pb2.Remark(code="ONE_RUN_EACH", message="Another seed gives another result."))
    return found
