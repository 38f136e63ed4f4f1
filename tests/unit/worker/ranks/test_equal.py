# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from typing import Any
import pytest
from finetree_api.trainer.v1 import event_pb2
from worker_harness import METHODS, difference, elsewhere, run, weights, tuned, held_out


@pytest.mark.parametrize("kind", ["lora", "full", "full-frozen", "prefix", "houlsby", "dora", "nf4", "int8"])
@pytest.mark.parametrize("sharding", ["replicated", "full"])
@pytest.mark.parametrize("count", [2, 4])
def test_probe(plan, together, tmp_path, kind, sharding, count):
    plan = replace(plan, method=METHODS[kind])
    one = run(plan)
    other = elsewhere(plan, tmp_path / "b")
    many = together(other, count, sharding)
    a, b = (r.of(event_pb2.StepMetrics) for r in (one, many))
    print(
        kind,
        sharding,
        count,
        "loss",
        max(abs(x.loss - y.loss) / x.loss for x, y in zip(a, b, strict=True)),
        "norm",
        max(abs(x.grad_norm - y.grad_norm) / x.grad_norm for x, y in zip(a, b, strict=True)),
        "weights",
        difference(weights(plan.artifact), weights(other.artifact)),
    )
