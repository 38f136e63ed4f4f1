# SPDX-License-Identifier: Apache-2.0
"""The contract tests of a service run on the SDK's fake suite too, or say why they do not."""

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CONTRACT = Path(__file__).resolve().parents[2] / "contract"
SHARED = {"stub", "channel", "learning", "client", "serve"}
"""Fixtures of these folders that `served_by` gives once as the service, once as the fake suite."""
LEAST = {"estimator": 85, "recommender": 20, "trainer": 55}
"""Tests of a folder that run on both, at least."""


@dataclass(frozen=True)
class Written:
    """A test function: where it stands, whether it asks for a shared fixture, and its marks' reasons."""

    place: str
    shared: bool
    whole: tuple[str, ...]
    """Reasons for which no case of it runs on the fake suite."""
    cases: tuple[str, ...]
    """Reasons of single cases."""

    @property
    def both(self) -> bool:
        """Whether it runs on the service and on the fake suite."""
        return self.shared and not self.whole


def reasons_in(node: ast.AST) -> Iterator[str]:
    """Reasons of the service_alone marks in a part of a file."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "service_alone":
            yield ast.literal_eval(call.args[0]) if call.args else ""


def is_mark(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("mark.service_alone")


def written(folder: str) -> Iterator[Written]:
    """The tests of a folder."""
    for file in sorted((CONTRACT / folder).glob("test_*.py")):
        tree = ast.parse(file.read_text())
        of_file = [
            reason
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
            for reason in reasons_in(node)
        ]
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                marks = [each for each in node.decorator_list if is_mark(each)]
                rest = [each for each in node.decorator_list if not is_mark(each)]
                yield Written(
                    f"{folder}/{file.name}::{node.name}",
                    bool(SHARED & {argument.arg for argument in node.args.args}),
                    (*of_file, *(reason for each in marks for reason in reasons_in(each))),
                    tuple(reason for each in rest for reason in reasons_in(each)),
                )


def known() -> set[str]:
    """The reasons that tests/contract/conftest.py explains."""
    for node in ast.parse((CONTRACT / "conftest.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "REASONS":
            return set(ast.literal_eval(node.value))
    raise AssertionError("tests/contract/conftest.py has no REASONS")


@pytest.mark.parametrize("folder", ["estimator", "recommender"])
def test_each_test_runs_on_both_or_says_why_not(folder):
    silent = [test.place for test in written(folder) if not test.both and not test.whole]
    assert silent == []


@pytest.mark.parametrize("folder", LEAST)
def test_most_of_what_a_fake_can_keep_is_tested_on_it(folder):
    both = [test.place for test in written(folder) if test.both]
    assert len(both) >= LEAST[folder], f"{len(both)} tests of {folder} run on both"


def test_each_reason_is_explained_and_used():
    counted = Counter(reason for folder in LEAST for test in written(folder) for reason in (*test.whole, *test.cases))
    assert counted.keys() == known()
