# SPDX-License-Identifier: Apache-2.0
"""The two clients have one surface: names, parameters, defaults, results and docstrings."""

import inspect
import typing

import pytest
from finetree import (
    AsyncClient,
    AsyncEventStream,
    AsyncGeneration,
    AsyncJob,
    AsyncPages,
    AsyncServing,
    Client,
    EventStream,
    Generation,
    Job,
    Pages,
    Serving,
)

PAIRS = [(Client, AsyncClient), (Job, AsyncJob), (EventStream, AsyncEventStream), (Pages, AsyncPages)]
PAIRS += [(Serving, AsyncServing), (Generation, AsyncGeneration)]
TWINS = {"__iter__": "__aiter__", "__next__": "__anext__", "__enter__": "__aenter__", "__exit__": "__aexit__"}
IMMEDIATE = {
    "with_options",
    "job",
    "events",
    "list_models",
    "list_rule_packs",
    "list_accelerators",
    "list_prices",
    "list_jobs",
    "list_datasets",
    "preview_dataset",
    "list_base_models",
    "list_sweeps",
    "watch_sweep",
    "watch_jobs",
    "pages",
    "read_file",
    "read_log",
    "generate",
    "serving",
}


def surface(cls: type) -> dict[str, object]:
    names = [name for name in dir(cls) if not name.startswith("_") or name in {*TWINS, *TWINS.values(), "__init__"}]
    return {name: inspect.getattr_static(cls, name) for name in names}


def members() -> list[tuple[type, type, str]]:
    return [(sync, aio, name) for sync, aio in PAIRS for name in surface(sync)]


def shape(member: object) -> list[tuple[str, object, object, str]]:
    function = member.fget if isinstance(member, property) else member
    return [
        (each.name, each.kind, each.default, same(each.annotation))
        for each in inspect.signature(function).parameters.values()
    ]


def same(annotation: object) -> str:
    return str(annotation).replace("Async", "").replace("Stub", "").replace("Iterator", "")


def returned(member: object) -> str:
    function = member.fget if isinstance(member, property) else member
    return same(inspect.signature(function).return_annotation)


@pytest.mark.parametrize(("sync", "aio"), PAIRS)
def test_the_same_names(sync, aio):
    assert {TWINS.get(name, name) for name in surface(sync)} == set(surface(aio))


@pytest.mark.parametrize(("sync", "aio", "name"), members(), ids=lambda value: getattr(value, "__name__", value))
def test_the_same_parameters_results_and_docstrings(sync, aio, name):
    mine, other = surface(sync)[name], surface(aio)[TWINS.get(name, name)]
    assert type(mine) is type(other)
    if name == "__init__" and sync is not Client:
        return
    assert shape(mine)[1:] == shape(other)[1:]
    assert returned(mine) == returned(other)
    assert inspect.getdoc(mine) == inspect.getdoc(other)


@pytest.mark.parametrize(("sync", "aio", "name"), members(), ids=lambda value: getattr(value, "__name__", value))
def test_what_talks_to_a_service_is_awaited(sync, aio, name):
    other = surface(aio)[TWINS.get(name, name)]
    if isinstance(other, property) or name.startswith("__") or name in IMMEDIATE:
        assert not inspect.iscoroutinefunction(other) or name in {"__next__", "__enter__", "__exit__"}
    else:
        assert inspect.iscoroutinefunction(other)


@pytest.mark.parametrize(("sync", "aio"), PAIRS)
def test_everything_public_is_documented(sync, aio):
    for cls in (sync, aio):
        assert inspect.getdoc(cls)
        for name, member in surface(cls).items():
            assert name.startswith("__") or inspect.getdoc(member), (cls, name)


def test_docstrings_of_classes_agree():
    for sync, aio in PAIRS[1:3]:
        assert inspect.getdoc(sync) == inspect.getdoc(aio)


def test_annotations_resolve_for_type_checkers():
    hints = typing.get_type_hints(Client.create_job)
    assert hints["return"] is Job
