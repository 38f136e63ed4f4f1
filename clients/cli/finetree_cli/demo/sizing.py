# SPDX-License-Identifier: Apache-2.0
"""How much data the demo uses: the one thing it chooses itself, from the machine's measured matrix rate."""

from dataclasses import dataclass

from finetree_api.trainer.v1 import trainer_pb2

from finetree_cli.demo.dataset import MIN_COUNTRIES, available
from finetree_cli.render import units

REFERENCE_RATE = 2e12
"""FLOP/s of matrix products above which the demo takes more than `MIN_COUNTRIES`.

A country is 8 rows of about 36 tokens; three passes cost 8 * 36 * 3 * 4 * 135e6 = 0.47 TFLOP of adapter training
(forward, and backward without the weight gradients of the base), so 60 countries are 28 TFLOP. Steps this small reach
about a quarter of a CPU's matrix rate (measured: 0.1 of 0.4 TFLOP/s): one to two minutes at 2 TFLOP/s, four at 0.4.
"""


@dataclass(frozen=True, slots=True)
class Size:
    """How many countries, and why."""

    countries: int
    reason: str


def choose(capacity: trainer_pb2.GetCapacityResponse, asked: int | None) -> Size:
    """Countries for this machine: in proportion to its rate above the reference, never fewer than the minimum.

    A GPU takes all: it needs less than a minute for them.
    """
    everything = len(available())
    if asked is not None:
        return Size(asked, "as asked for")
    if any(device.hardware.WhichOneof("device") != "cpu" for device in capacity.devices):
        return Size(everything, "all that there are: this machine has a GPU")
    rate = max(capacity.host_bf16_flops_per_second, capacity.host_fp32_flops_per_second)
    if rate == 0:
        return Size(MIN_COUNTRIES, "the least, since the matrix rate of this machine is not known")
    wanted = int(MIN_COUNTRIES * rate / REFERENCE_RATE)
    return Size(min(max(wanted, MIN_COUNTRIES), everything), f"for {units.rate(rate)}, so that it takes a few minutes")
