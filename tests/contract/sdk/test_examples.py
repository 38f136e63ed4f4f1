# SPDX-License-Identifier: Apache-2.0
"""The examples in docstrings, run as they stand there."""

import inspect
import re
import textwrap

import finetree
import finetree.testing
import pytest


def blocks(documented: object) -> list[str]:
    """The indented blocks of code in a docstring."""
    found = re.findall(r"(?m)(?:^ {4}\S.*\n(?:^ {4}.*\n|^\n(?= {4}))*)", f"{inspect.getdoc(documented)}\n")
    return [textwrap.dedent(block) for block in found]


@pytest.mark.parametrize("documented", [finetree, finetree.testing], ids=lambda module: module.__name__)
def test_the_example_of_a_module_runs(documented, suite, monkeypatch, capsys):
    monkeypatch.setenv("FINETREE_ADDRESS", suite.address)
    (code,) = blocks(documented)
    names = {"finetree": finetree}
    exec(compile(code, documented.__name__, "exec"), names)
    assert names["job"].name.startswith("projects/default/jobs/")
    names["client"].close()
    assert len(capsys.readouterr().out.splitlines()) == (19 if documented is finetree else 0)


@pytest.mark.parametrize("method", ["recommend"])
def test_a_call_that_a_method_shows_is_one_that_it_takes(method, suite):
    shown = re.findall(rf"`({method}\(.*?\))`", inspect.getdoc(getattr(finetree.Client, method)), flags=re.DOTALL)
    assert len(shown) == 1
    with suite.client() as client:
        answer = eval(f"client.{shown[0]}", {"client": client})
    assert answer.spec.model.name == "llama-3.1-8b"
