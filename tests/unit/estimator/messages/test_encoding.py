# SPDX-License-Identifier: Apache-2.0
"""What is written as bytes is what protobuf reads."""

import pytest
from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_estimator.intervals import Interval, Kind, Source
from finetree_estimator.messages import encoding
from finetree_estimator.messages.encoding import Place, interval_bytes
from finetree_estimator.messages.estimate import interval_message
from finetree_runtime.runspec.wire import key

SOURCE = Source(Kind.PUBLISHED, "a paper", "table 3", "2026-07")
MANY = tuple(Source(Kind.MEASURED, f"source {number}", "x" * 300) for number in range(40))
INTERVALS = [Interval(1.0, 2.0, 3.0), Interval(0.0, 0.5, 1e15, (SOURCE,), 0.8), Interval(1.0, 2.0, 4.0, MANY)]


@pytest.mark.parametrize("interval", INTERVALS, ids=["bare", "one source", "many sources"])
def test_a_place_writes_the_field_that_holds_the_interval(interval):
    place = Place(key(pb.MemoryEstimate, "device_bytes"))

    for _ in range(2):  # made, and kept
        read = pb.MemoryEstimate.FromString(place.bytes_of(interval))
        assert read == pb.MemoryEstimate(device_bytes=interval_message(interval))
    assert len(read.device_bytes.provenance) == min(len(interval.sources), 32)


@pytest.mark.parametrize("interval", INTERVALS, ids=["bare", "one source", "many sources"])
def test_a_place_inside_a_message_writes_that_too(interval):
    component = pb.MemoryComponent(kind=pb.MEMORY_COMPONENT_KIND_RUNTIME, label="runtime")
    place = Place(
        key(pb.MemoryComponent, "bytes"),
        inside=key(pb.MemoryEstimate, "components"),
        after=component.SerializeToString(),
    )
    read = pb.MemoryEstimate.FromString(place.bytes_of(interval) * 2)
    component.bytes.CopyFrom(interval_message(interval))

    assert read == pb.MemoryEstimate(components=[component, component])


def test_a_place_tells_equal_numbers_of_other_sources_apart(monkeypatch):
    monkeypatch.setattr(encoding, "MOST_FRAMES", 2)
    place = Place(key(pb.MemoryEstimate, "host_bytes"))
    for number in range(8):
        # Tuples that nobody else holds: their identities would come again if the place let go of them.
        interval = Interval(1.0, 2.0, 3.0, (Source(Kind.COMPUTED, f"source {number}"),))
        written = place.bytes_of(interval)
        assert pb.MemoryEstimate.FromString(written).host_bytes == interval_message(interval)
        assert written.endswith(interval_bytes(interval))
