# SPDX-License-Identifier: Apache-2.0
"""A served tiny model in float32, and adapters of every kind that it can have beside it."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from finetree_worker.generate import adapters
from finetree_worker.generate.adapters import Adapters
from finetree_worker.generate.engine import Engine, Limits
from finetree_worker.methods.weights import Weights
from finetree_worker.models.load import load_tokenizer
from generate_harness import METHODS, base_of, trained


@pytest.fixture(autouse=True)
def quiet_libraries() -> Iterator[None]:
    """peft 0.21 calls transformers 5 by old names, and warns that an adapter's base has another name."""
    with warnings.catch_warnings():
        for name in ("is_gradient_checkpointing", "past_key_values"):
            warnings.filterwarnings("ignore", message=f".*{name}", category=FutureWarning)
        yield


@pytest.fixture(scope="session")
def saved(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Weights]:
    """Adapters of all methods on the tiny Llama, by the names of METHODS."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: trained(method, base_folder, folder / name, seed) for seed, (name, method) in enumerate(METHODS.items())
    }


@pytest.fixture
def serving(base_folder: Path, saved: dict[str, Weights]) -> Callable[..., Engine]:
    """Makes an engine with these targets loaded."""

    def make(*names: str, frozen: bool = True, **limits: int) -> Engine:
        model = base_of(base_folder)
        engine = Engine(model, load_tokenizer(base_folder), Adapters(model), limits=Limits(**limits), frozen=frozen)
        for name in names:
            engine.adapters.add(name, adapters.read(saved[name], model))
        return engine

    return make
