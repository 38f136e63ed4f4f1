# SPDX-License-Identifier: Apache-2.0
"""The SDK in the programs that host it: preforking servers, process pools, many event loops."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("hosts.py")


@pytest.fixture
def host(suite):
    """Runs a host beside the suite, which stays in this process."""

    def run(name: str) -> dict[str, object]:
        command = [sys.executable, "-W", "error::RuntimeWarning", str(PROGRAM), name, suite.address]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("GRPC_")}
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100, env=clean)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return run


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_preforking_server_loses_no_request(host):
    assert host("prefork") == {"answers": {"ok 5": 200}, "errors": []}


def test_process_pools_of_every_start_method(host):
    told = host("pools")
    assert told == {method: [{"ok 5": 20}, "JOB_NOT_FOUND"] for method in ("fork", "spawn", "forkserver")}


def test_one_client_in_many_loops(host):
    told = host("loops")
    assert told["one_after_another"] == [5] * 10
    assert told["at_once"] == [5] * 4
    assert told["kept"] <= 1, "a loop that is gone keeps no channel"
