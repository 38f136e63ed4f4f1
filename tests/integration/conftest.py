# SPDX-License-Identifier: Apache-2.0
"""A reporter and control for what is run without a service."""

from typing import Any

import pytest
from finetree_worker.control import Signal


class Quiet:
    """Keeps what is reported; never asks for anything."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def emit(self, payload: Any, **_: Any) -> None:
        self.events.append(payload)

    def poll(self) -> Signal:
        return Signal.NONE

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def quiet() -> Quiet:
    return Quiet()
