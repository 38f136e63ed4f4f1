# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_estimator.whatif import quantities
from finetree_estimator.whatif.policy import Limit, Metric

GIB = 2**30


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (quantities.duration, 40, "40 s"),
        (quantities.duration, 720, "12 min"),
        (quantities.duration, 3_600_000 * 5, "5,000 h"),
        (quantities.size, 0.05 * GIB, "51.2 MiB"),
        (quantities.size, 1.5 * GIB, "1.50 GiB"),
        (Limit(Metric.COST, currency="EUR").write, 0, "0.00 EUR"),
        (Limit(Metric.COST, currency="EUR").write, 0.0042, "0.0042 EUR"),
        (Limit(Metric.COST, currency="EUR").write, 12345.678, "12,345.68 EUR"),
    ],
)
def test_numbers_are_written_with_their_unit(write, value, text):
    assert write(value) == text
