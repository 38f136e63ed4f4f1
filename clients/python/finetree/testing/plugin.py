# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: one fixture. It comes with the SDK, and loads gRPC only for a test that asks for a suite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from finetree.testing import Suite


@pytest.fixture
def finetree_suite(monkeypatch: pytest.MonkeyPatch) -> Iterator[Suite]:
    """A fake suite of its own for a test; clients without an address talk to it (FINETREE_ADDRESS).

    The addresses of single services, a profile, a token and a project of the surroundings count for nothing meanwhile.
    """
    from finetree.testing import Suite

    for name in (
        "FINETREE_RECOMMENDER_ADDRESS",
        "FINETREE_ESTIMATOR_ADDRESS",
        "FINETREE_TRAINER_ADDRESS",
        "FINETREE_PROFILE",
        "FINETREE_PROJECT",
        "FINETREE_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    with Suite() as suite:
        monkeypatch.setenv("FINETREE_ADDRESS", suite.address)
        yield suite
