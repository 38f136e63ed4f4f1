# SPDX-License-Identifier: Apache-2.0
"""What a process takes of a GPU outside its allocator, by what the GPU is built for."""

import pytest
from finetree_estimator.catalog import devices
from finetree_estimator.catalog.accelerators import accelerator

MIB = 2**20


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("t4", 141 * MIB, 250 * MIB),
        ("rtx-3090", 256 * MIB, 700 * MIB),
        ("rtx-6000-ada", 426 * MIB, 700 * MIB),
        ("a100-80gb", 1370 * MIB, 1630 * MIB),
        ("h100-sxm", 1370 * MIB, 1630 * MIB),
    ],
)
def test_the_context_is_at_least_what_was_seen_on_the_card_and_not_much_more(name, least, most):
    assert least <= devices.known(accelerator(name), fp32=False).context_bytes <= most


def test_an_unknown_card_has_the_larger_context():
    assert devices.by_memory_class(24).context_bytes >= devices.known(accelerator("rtx-4090"), fp32=False).context_bytes
