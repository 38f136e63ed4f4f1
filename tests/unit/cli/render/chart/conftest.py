# SPDX-License-Identifier: Apache-2.0
"""Rows of a chart: two methods on two GPUs, one of which fits."""

import pytest
from finetree_cli.render.chart.memory import GIB, Row


@pytest.fixture
def rows() -> list[Row]:
    found = []
    for group, limit in (("rtx-4090", 23.5), ("h200", 140.0)):
        for label, low, expected, high in (("lora", 10, 12, 16), ("full", 80, 100, 130)):
            verdict = "fits" if high < limit else "does not fit"
            values = [value * GIB for value in (low, expected, high, limit)]
            found.append(Row(group, label, *values, verdict=verdict, note=f"{verdict}, 3 h"))
    return found
