# SPDX-License-Identifier: Apache-2.0
"""`buf curl` lists and calls all three services without their .proto files, by either version of reflection."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

BUF = Path(sys.executable).with_name("buf")
SERVICES = {"recommender": "Recommender", "estimator": "Estimator", "trainer": "Trainer"}
START_SECONDS = 60.0


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    """The three services as programs; each stops when its standard input is closed."""
    folder = tmp_path_factory.mktemp("services")
    own = {"trainer": ["--data-dir", str(folder / "data")]}
    with contextlib.ExitStack() as stack:
        started = {}
        for name in SERVICES:
            command = [sys.executable, "-m", f"finetree_{name}", "--address", "127.0.0.1:0", "--stop-with-stdin"]
            process = subprocess.Popen(
                [*command, *own.get(name, [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stack.enter_context((folder / f"{name}.log").open("wb")),
            )
            started[name] = stack.enter_context(process)  # closes the pipes, and waits
        yield {name: json.loads(process.stdout.readline())["address"] for name, process in started.items()}


def buf_curl(*arguments: str) -> str:
    """Run `buf curl` away from the repository and return what it prints; it knows only what the server says."""
    command = [BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=START_SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("version", ["grpc-v1", "grpc-v1alpha"])
@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_listed_and_called_without_its_proto_files(addresses, name, version):
    server, full_name = f"http://{addresses[name]}", f"finetree_api.{name}.v1.{SERVICES[name]}Service"
    listed = buf_curl(server, "--reflect-protocol", version, "--list-methods").split()
    assert {f"{full_name}/GetServerInfo", "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"} <= set(listed)
    answered = buf_curl(f"{server}/{full_name}/GetServerInfo", "--reflect-protocol", version)
    said = json.loads(answered)["server"]
    assert said["service"] == f"finetree-{name}"
    # Whoever sends many calls can read how many are taken at once.
    assert {"max_running_calls", "max_waiting_calls", "max_streams", "max_health_calls"} <= set(said["limits"])


def test_a_request_is_built_from_what_the_server_says(addresses):
    url = f"http://{addresses['estimator']}/finetree_api.estimator.v1.EstimatorService/ListModels"
    models = json.loads(buf_curl(url, "--data", '{"prefix": "smollm2-135m-instruct"}'))["models"]
    assert [model["name"] for model in models] == ["smollm2-135m-instruct"]
