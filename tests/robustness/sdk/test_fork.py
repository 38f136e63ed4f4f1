# SPDX-License-Identifier: Apache-2.0
"""Forking while a client is in use: no child hangs or crashes, and the parent goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from finetree.testing import Script

FORKER = Path(__file__).with_name("forker.py")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture
def fork_in(suite, spec):
    """Runs the forking program in a mode; the suite stays in this process, so that no server is forked."""
    suite.trainer.script = Script(hold_at=12)
    with suite.client() as client:
        name = client.create_job(spec).name

    def run(mode, **env: str) -> dict[str, object]:
        command = [sys.executable, str(FORKER), mode, suite.address, name]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("GRPC_")}
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=55, env=clean | env)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize("mode", ["idle", "streams", "unary"])
def test_twenty_children(fork_in, mode):
    told = fork_in(mode)
    assert told["children"] == ["ok 5"] * 20
    assert (told["errors"], told["after"]) == ([], "ok 5")


def test_unary_calls_in_flight_with_grpcs_own_fork_support(fork_in):
    told = fork_in("unary", GRPC_ENABLE_FORK_SUPPORT="1")
    assert told["children"] == ["ok 5"] * 20
    assert (told["errors"], told["after"]) == ([], "ok 5")


def test_a_child_goes_on_with_a_stream_and_so_does_its_parent(fork_in):
    told = fork_in("inherited")
    assert told["children"] == ["ok 1"] * 3
    assert told["errors"] == []


def test_an_open_async_client_refuses_in_the_child_and_a_closed_one_harms_nothing(fork_in):
    told = fork_in("aio")
    assert told["children"] == ["ok 5"] * 6


def test_fork_support_switched_off_is_refused_not_hung(fork_in):
    told = fork_in("switched_off", GRPC_ENABLE_FORK_SUPPORT="0")
    assert all("GRPC_ENABLE_FORK_SUPPORT=0" in said for said in told["children"]), told
    assert told["after"] == "ok 5"
