# SPDX-License-Identifier: Apache-2.0
"""Choose the size of the demo's dataset from the machine's measured matrix rate."""

from dataclasses import dataclass

from finetree_api.trainer.v1 import capacity_pb2

from finetree_cli.demo.dataset import MIN_COUNTRIES, available
from finetree_cli.render import units

REFERENCE_RATE = 2e12
"""Matrix rate in FLOP/s above which the demo uses more than `MIN_COUNTRIES`.

A country is 8 rows of about 36 tokens; three passes cost 8 * 36 * 3 * 4 * 135e6 = 0.47 TFLOP of adapter training
(forward, and backward without the weight gradients of the base), so 60 countries are 28 TFLOP. Steps this small reach
about a quarter of a CPU's matrix rate (measured: 0.1 of 0.4 TFLOP/s): one to two minutes at 2 TFLOP/s, four at 0.4.
"""


@dataclass(frozen=True, slots=True)
class Size:
    """Number of countries, and the reason."""

    countries: int
    reason: str


def choose(capacity: capacity_pb2.GetCapacityResponse, asked: int | None) -> Size:
    """Choose the number of countries: in proportion to the rate above the reference, at least the minimum.

    With a GPU, all of them: they take less than a minute.
    """
    everything = len(available())
    if asked is not None:
        return Size(asked, "as requested")
    if any(device.hardware.WhichOneof("device") != "cpu" for node in capacity.nodes for device in node.devices):
        return Size(everything, "all of them: this machine has a GPU")
    rates = [node.matrix_rates for node in capacity.nodes]
    rate = max((max(each.bf16_flops_per_second, each.fp32_flops_per_second) for each in rates), default=0.0)
    if rate == 0:
        return Size(MIN_COUNTRIES, "the minimum: this machine's matrix rate is not known")
    wanted = int(MIN_COUNTRIES * rate / REFERENCE_RATE)
    return Size(min(max(wanted, MIN_COUNTRIES), everything), f"which take a few minutes at {units.rate(rate)}")
