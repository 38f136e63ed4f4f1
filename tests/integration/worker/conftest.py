# SPDX-License-Identifier: Apache-2.0
"""How models are trained in a test process; the tiny models of the unit tests are importable by name."""

import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest

_MODELS = Path(__file__).parents[2] / "unit" / "worker"
_NAMES = ("hybrid_models", "multimodal_models")


class _Finder:
    """Finds them where a test imports them: test folders are no packages."""

    @staticmethod
    def find_spec(name: str, *_: object) -> ModuleSpec | None:
        return spec_from_file_location(name, _MODELS / f"{name}.py") if name in _NAMES else None


sys.meta_path.append(_Finder)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models compute faster on one thread than two threads can agree."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
