# SPDX-License-Identifier: Apache-2.0
"""Lists: fetched when they are needed, limited, and continued from a token."""

import inspect

import finetree
import pytest
from finetree.testing.catalog import MODELS

NAMES = sorted(MODELS)


def lists_of(cls):
    """Methods that give pages."""
    members = inspect.getmembers(cls, inspect.isfunction)
    return {name: each for name, each in members if "Pages[" in str(inspect.signature(each).return_annotation)}


@pytest.mark.parametrize("cls", [finetree.Client, finetree.AsyncClient])
def test_every_list_can_be_limited_and_continued(cls):
    found = lists_of(cls)
    assert len(found) >= 8
    for name, method in found.items():
        parameters = inspect.signature(method).parameters
        assert {"page_size", "limit", "page_token", "timeout"} <= set(parameters), name


@pytest.mark.parametrize(
    ("limit", "page_size", "sizes"),
    [(0, 0, []), (1, 0, [1]), (3, 0, [3]), (3, 2, [2, 1]), (4, 2, [2, 2]), (5, 2, [2, 2, 1]), (99, 6, [6, 6, 2])],
)
def test_a_limit_ends_the_list_and_asks_for_no_more_than_it_needs(do, suite, limit, page_size, sizes):
    models = do.client().list_models(limit=limit, page_size=page_size)
    assert [len(page) for page in do.all(models.pages())] == sizes
    assert len(suite.faults.calls("ListModels")) == len(sizes)
    assert [model.name for model in do.all(models)] == NAMES[:limit]


@pytest.mark.parametrize("first", [1, 2, 3, 4])
def test_a_page_says_how_to_continue_behind_it(do, first):
    client = do.client()
    (page,) = do.all(client.list_models(limit=first).pages())
    rest = client.list_models(page_token=page.next_page_token)
    assert [model.name for model in [*page, *do.all(rest)]] == NAMES
    assert do.all(rest.pages())[-1].next_page_token == ""


def test_a_list_is_lazy(do, suite):
    pages = do.client().list_models(page_size=2)
    assert suite.faults.calls("ListModels") == []
    do.all(pages, 2)
    assert len(suite.faults.calls("ListModels")) == 1
    do.all(pages, 3)
    assert len(suite.faults.calls("ListModels")) == 3


def test_a_limit_below_nothing_is_refused(do):
    with pytest.raises(finetree.InvalidArgument, match="limit: must be 0 or more"):
        do.client().list_models(limit=-1)
