# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_data.weights.export import NOT_MERGEABLE, serve_beside


@pytest.mark.parametrize(
    ("method", "with_peft"),
    [("prefix", True), ("adapter", False), ("LOHA", True)],
    ids=["prefix", "bottleneck", "other"],
)
def test_what_cannot_be_merged_is_served_by_what_loads_it(method, with_peft):
    """peft has no bottleneck layers: to be told to load them with it leads nowhere."""
    assert ("peft" in serve_beside(method)) is with_peft
    assert ("finetree serve" in serve_beside(method)) is (method in NOT_MERGEABLE)
