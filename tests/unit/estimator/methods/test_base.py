# SPDX-License-Identifier: Apache-2.0
"""A sixth method needs its own file and its place in the registers: nothing else asks which method a run has."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
from finetree_estimator.estimate import estimate
from finetree_estimator.evidence import confidence
from finetree_estimator.methods.base import Method
from finetree_estimator.programs import FINETREE, LITGPT, PYTORCH, TRANSFORMERS
from finetree_estimator.whatif.playbook_comparison import compare


@dataclass(frozen=True)
class Ia3(Method):
    """Scaled keys, values and MLP activations (Liu et al. 2022), with the default answer to all that can have one."""

    name: ClassVar[str] = "ia3"
    trained_part: ClassVar[str] = "ia3"
    described: ClassVar[str] = "scaled activations"

    @property
    def counted_spread(self):
        return 0.1

    def trainable_parameters(self, shape):
        return shape.layers * (2 * shape.kv_width + shape.intermediate)

    def saved_inputs(self, setup):
        return float(setup.compute_bytes * (2 * setup.shape.kv_width + setup.shape.intermediate))

    def saved_inputs_on_cpu(self, shape, *, compute_bytes, stream_bytes):  # noqa: ARG002  # as all methods
        return float(compute_bytes * (2 * shape.kv_width + shape.intermediate))


@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_a_method_that_answers_what_has_no_default_is_estimated(make_run, request, monkeypatch, device):
    monkeypatch.setitem(confidence._METHODS, "ia3", Ia3.described)
    for program in (FINETREE, TRANSFORMERS, LITGPT, PYTORCH):
        for devices, sharding in ((1, "replicated"), (4, "full")):
            run = make_run(
                method=Ia3(),
                program=program,
                device=request.getfixturevalue(device),
                devices=devices,
                sharding=sharding,
            )
            found = estimate(run)
            assert found.trainable_parameters == 28 * (2 * 1024 + 8192)
            assert 0 < found.memory.device.low <= found.memory.device.expected <= found.memory.device.high
            assert 0 < found.times.total.low <= found.times.total.expected
            assert compare(run, found, examples=1000) == ()
