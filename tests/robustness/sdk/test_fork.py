# SPDX-License-Identifier: Apache-2.0
"""Forking while a client is in use: no child hangs, crashes or fails, and the parent goes on.

The short form of benchmarks/sdk/fork_matrix.py, whose whole is in docs/forking.md: each cell with fewer children.
"""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from finetree.testing import Suite

SCRIPTS = Path(__file__).parents[3] / "benchmarks/sdk"
CHILDREN = 10
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def script(name: str) -> ModuleType:
    """A script of the benchmarks; one imports another by its bare name."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


STATES = script("forking").STATES
MATRIX = script("fork_matrix")


@pytest.fixture(scope="module")
def job_that_goes_on():
    """Address of a suite and name of a job; the suite stays in this process, so that no server is forked."""
    with Suite() as suite:
        yield suite.address, MATRIX.job_that_goes_on(suite)


@pytest.mark.parametrize("setting", MATRIX.SETTINGS)
@pytest.mark.parametrize("state", STATES)
def test_every_child_answers_or_refuses_at_once(job_that_goes_on, state, setting):
    found = MATRIX.cell(*job_that_goes_on, state=state, setting=setting, children=CHILDREN)
    assert (found["wrong"], found["parent_errors"]) == ([], [])
    refused = CHILDREN if MATRIX.must_refuse(state, setting) else 0
    assert (found["answered"], found["refused"]) == (CHILDREN - refused, refused)


def test_the_matrix_knows_what_is_wrong():
    said = ["ok 5", "hang", "signal 11", "refused in 250 ms: this process was forked while …"]
    found = MATRIX.verdict("idle", "unset", said, [])
    assert (found["answered"], found["refused"], found["wrong"]) == (1, 1, ["hang", "signal 11"])
    assert not found["as_required"]
    assert MATRIX.verdict("idle", "unset", ["ok 5"], [])["as_required"]
    assert not MATRIX.verdict("idle", "unset", ["ok 5"], ["a call of the parent failed"])["as_required"]
    assert not MATRIX.verdict("aio_open", "unset", ["ok 5"], [])["as_required"]
    assert not MATRIX.verdict("aio_open", "unset", [said[-1]], [])["as_required"], "later than 100 ms"
