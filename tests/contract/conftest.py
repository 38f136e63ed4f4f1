# SPDX-License-Identifier: Apache-2.0
"""What the contract promises is tested twice: over the service, and over the SDK's fake suite.

A test takes part by the fixtures of its folder, which ask for `served_by`. One that a fake cannot keep is marked
`@pytest.mark.service_alone(reason)`, the whole test or one of its cases, and runs on the service alone.
"""

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REASONS = {
    "figures": "the test asserts what the estimator computes of memory, time, money or confidence",
    "search": "the test asserts what a search over changes, hardware or offers finds",
    "calibration": "the test asserts how measured runs correct an estimate",
    "catalog": "the test asserts an entry of the service's catalog or price book that the SDK does not have",
    "names": "the test spells a name in other ways than the catalog does",
    "verdict": "the test asserts which method is right, or why",
    "rule packs": "the test asserts the content of a rule pack, or loads one",
    "drawing": "the test asserts what a drawing shows",
    "process": "the test is of the program: its command line, files, settings, start and stop",
}
"""Why a test runs on the service alone."""


_FOLDER = Path(__file__).parent
for _name, _file in {
    "hub_server": _FOLDER / "worker" / "models" / "hub_server.py",
    "openai_like": _FOLDER / "openai_like.py",
}.items():
    # Importable by their names: test folders are no packages.
    if _name not in sys.modules:
        _spec = importlib.util.spec_from_file_location(_name, _file)
        assert _spec is not None
        assert _spec.loader is not None
        sys.modules[_name] = importlib.util.module_from_spec(_spec)
        _spec.loader.exec_module(sys.modules[_name])


@pytest.fixture
def hub() -> Iterator[Any]:
    """A model hub on loopback, which huggingface_hub's own client talks to."""
    with sys.modules["hub_server"].Hub() as running:
        yield running


@pytest.fixture
def server() -> Iterator[tuple[Any, str]]:
    """A server like OpenAI's on loopback: what a test changes about it, and its address."""
    with sys.modules["openai_like"].serving() as running:
        yield running


@pytest.fixture(params=["service", "suite"])
def served_by(request: pytest.FixtureRequest) -> str:
    """Who answers: "service", or "suite" for the SDK's fake."""
    return str(request.param)


@pytest.fixture
def otlp() -> ModuleType:
    """The module of the collector, whose libraries only its tests import: test folders are no packages."""
    spec = importlib.util.spec_from_file_location("otlp_collector", Path(__file__).with_name("collector.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def collector(otlp: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A running collector, to which the services of this process send their spans."""
    with otlp.collecting(monkeypatch) as running:
        yield running


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the fake suite's side of the tests that are the service's alone; pytest counts them as deselected."""
    alone = [item for item in items if _on_suite(item) and _reasons(item)]
    if alone:
        config.hook.pytest_deselected(items=alone)
        items[:] = [item for item in items if item not in set(alone)]


def _on_suite(item: pytest.Item) -> bool:
    return (
        isinstance(item, pytest.Function)
        and getattr(item, "callspec", None) is not None
        and (item.callspec.params.get("served_by") == "suite")
    )


def _reasons(item: pytest.Item) -> Iterable[str]:
    """Reasons for which a test is the service's alone.

    Raises:
        pytest.UsageError: a mark states another reason than one of REASONS.
    """
    found = [mark.args[0] if mark.args else "" for mark in item.iter_markers("service_alone")]
    for reason in found:
        if reason not in REASONS:
            raise pytest.UsageError(f"{item.nodeid}: service_alone({reason!r}): give one of {', '.join(REASONS)}")
    return found


@pytest.fixture(scope="session")
def authority_in():
    """Function that makes an authority with its certificates in a folder, as `finetree tls init` does."""
    from finetree_cli.backends.certificates.folder import init

    def make(folder: Path, *clients: str, hosts: Iterable[str] = ("localhost", "127.0.0.1")) -> Path:
        init(folder, list(hosts), clients, 30)
        return folder

    return make
