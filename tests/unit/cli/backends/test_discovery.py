# SPDX-License-Identifier: Apache-2.0
"""Who answers: the installed service, a given server, or one on the default port."""

from pathlib import Path

import pytest
from finetree_cli.backends import discovery
from finetree_cli.errors import BadInput
from finetree_cli.options.command import Settings


@pytest.fixture
def machine(monkeypatch):
    """Set what is installed and whether a server listens; without addresses in the environment."""
    for name in ("FINETREE_ADDRESS", "FINETREE_ESTIMATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)

    def describe(*, installed: bool = True, listens: bool = False) -> None:
        monkeypatch.setattr(discovery, "installed", lambda _: installed)
        monkeypatch.setattr(discovery, "_listens", lambda _: listens)

    describe()
    return describe


def asks_locally(settings: Settings | None = None, **how: object) -> bool:
    return discovery.runs_locally("estimator", settings or Settings(), **{"local": False, **how})  # type: ignore[arg-type]


def test_the_installed_service_answers_where_no_server_is_and_says_so(machine, capsys):
    assert asks_locally()
    assert "estimator" in capsys.readouterr().err


def test_a_server_on_the_default_port_answers(machine, capsys):
    machine(listens=True)
    assert not asks_locally()
    assert capsys.readouterr().err == ""


def test_without_an_installed_service_a_server_is_asked(machine):
    machine(installed=False)
    assert not asks_locally()


@pytest.mark.parametrize("settings", [Settings(estimator="a:1"), Settings(address="a:1")])
def test_an_address_is_asked_unless_told_otherwise(machine, settings):
    assert not asks_locally(settings)
    assert asks_locally(settings, local=True)


@pytest.mark.parametrize("variable", ["FINETREE_ADDRESS", "FINETREE_ESTIMATOR_ADDRESS"])
def test_an_address_in_the_environment_is_asked(machine, monkeypatch, variable):
    monkeypatch.setenv(variable, "a:1")
    assert not asks_locally()
    assert discovery.has_address("estimator", Settings())


def test_a_folder_is_read_locally_and_never_by_a_server(machine):
    machine(listens=True)
    assert asks_locally(model=Path("tuned"))
    with pytest.raises(BadInput, match="--model"):
        asks_locally(Settings(address="a:1"), model=Path("tuned"))
    assert asks_locally(Settings(address="a:1"), model=Path("tuned"), local=True)
