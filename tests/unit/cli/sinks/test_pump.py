# SPDX-License-Identifier: Apache-2.0
"""How long a pump waits."""

import pytest
from finetree_cli.sinks.pump import FIRST_WAIT, LONGEST_WAIT, wait_after


@pytest.mark.parametrize("failures", [1, 2, 5, 100])
def test_waiting_grows_up_to_a_limit(failures):
    most = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (failures - 1))
    assert all(most / 2 <= wait_after(failures) <= most for _ in range(50))


def test_what_a_target_asks_for_is_kept():
    assert wait_after(1, 40.0) >= 40.0
