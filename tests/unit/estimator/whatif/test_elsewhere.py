# SPDX-License-Identifier: Apache-2.0
"""What is offered elsewhere is what the edited spec would be answered."""

import pytest
from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_estimator.catalog import prices
from finetree_estimator.servicer import EstimatorServicer
from finetree_estimator.spec.resolve import Knowledge

CPU = rs.Hardware(cpu=rs.CpuDevice(cores=8, memory_bytes=64 << 30))
PROFILE = rs.DatasetProfile(examples=5000, total_tokens=1_000_000)


@pytest.fixture(scope="module")
def servicer():
    return EstimatorServicer(Knowledge(prices.packaged()))


@pytest.mark.parametrize("hardware", [CPU, rs.Hardware(accelerator="l40s")], ids=["cpu", "gpu"])
@pytest.mark.parametrize("method", ["full", "lora", "qlora", "prefix", "adapter"])
def test_an_offer_costs_what_its_spec_is_answered(servicer, method, hardware):
    """On a GPU activations are recomputed by default, which takes a third longer and is none of a CPU's settings."""
    spec = rs.RunSpec(
        model=rs.ModelSource(name="qwen2.5-1.5b"), training=rs.Training(sequence_length=512), hardware=hardware
    )
    getattr(spec, method).SetInParent()
    answer = servicer.estimate(pb.EstimateRunRequest(spec=spec, dataset_profile=PROFILE, view=pb.ESTIMATE_VIEW_FULL))

    assert answer.offers
    for offer in answer.offers:
        spec.hardware.CopyFrom(rs.Hardware(accelerator=offer.price.accelerator))
        spec.ownership.rented.price_id = offer.price.price_id
        there = servicer.estimate(pb.EstimateRunRequest(spec=spec, dataset_profile=PROFILE))
        assert there.cost.amount.expected == pytest.approx(offer.amount.expected)


def test_where_the_settings_do_not_go_nothing_is_offered(servicer):
    """Rows that a CPU may have, and weights of float32, which no quoted card has room for."""
    spec = rs.RunSpec(
        model=rs.ModelSource(name="llama-3.1-405b"), full=rs.FullFineTuning(), precision=rs.PRECISION_FP32, hardware=CPU
    )
    spec.hardware.cpu.memory_bytes = 64 << 40
    answer = servicer.estimate(pb.EstimateRunRequest(spec=spec, dataset_profile=PROFILE, view=pb.ESTIMATE_VIEW_FULL))

    assert not answer.offers
