# SPDX-License-Identifier: Apache-2.0
"""Learning rates, weight decay and clipping."""

import math

import pytest
import torch
from finetree_api.trainer.v1 import event_pb2
from finetree_worker.plan import OptimizerName, Plan, Schedule
from finetree_worker.training import optimizers
from worker_harness import Recorder, loop_of, optimization, scripted, tuned

CPU = torch.device("cpu")


@pytest.mark.parametrize("total", [1, 7, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("schedule", list(Schedule))
def test_the_learning_rate_follows_its_closed_form(schedule: Schedule, warmup: float, total: int) -> None:
    plan = optimization(schedule=schedule, warmup_ratio=warmup, learning_rate=2.0)
    warm = math.ceil(warmup * total)
    rates = [optimizers.learning_rate(plan, step, total) for step in range(total)]
    for step, rate in enumerate(rates):
        done = (step - warm) / max(1, total - warm)
        after = {
            Schedule.CONSTANT: 2.0,
            Schedule.LINEAR: 2.0 * (1 - done),
            Schedule.COSINE: 1.0 + math.cos(math.pi * done),
        }[schedule]
        assert rate == pytest.approx(2.0 * (step + 1) / warm if step < warm else after)
    assert max(rates) <= 2.0
    assert min(rates) > 0.0, "no step is for nothing"


@pytest.mark.parametrize("name", [OptimizerName.ADAMW])
def test_matrices_decay_and_vectors_do_not(name: OptimizerName) -> None:
    matrix, vector = torch.nn.Parameter(torch.ones(4, 4)), torch.nn.Parameter(torch.ones(4))
    optimizer = optimizers.build([matrix, vector], optimization(optimizer=name, weight_decay=0.1), CPU)
    for parameter in (matrix, vector):
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    optimizer.step()
    torch.testing.assert_close(matrix.detach(), torch.full((4, 4), 1 - 0.5 * 0.1))
    assert torch.equal(vector.detach(), torch.ones(4))


@pytest.mark.parametrize("limit", [1e-3, 1e6])
def test_a_step_is_as_long_as_the_clipped_gradient(plan: Plan, limit: float) -> None:
    plan = tuned(plan, optimizer=OptimizerName.SGD, max_grad_norm=limit, warmup_ratio=0.0, max_steps=1, epochs=None)
    recorder = Recorder()
    loop = loop_of(plan, recorder)
    before = {name: p.detach().clone() for name, p in loop.subject.trainable.items()}
    loop.run(scripted([]))
    moved = torch.cat([(p.detach() - before[name]).flatten() for name, p in loop.subject.trainable.items()]).norm()
    step = recorder.of(event_pb2.StepMetrics)[0]
    assert step.grad_norm > 1e-2
    assert float(moved) == pytest.approx(step.learning_rate * min(limit, step.grad_norm), rel=1e-3)
