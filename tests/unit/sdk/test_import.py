# SPDX-License-Identifier: Apache-2.0
"""Importing the SDK costs nothing until it is used."""

import json
import subprocess
import sys

import finetree

MEASURE = """
import json, sys, time
before = set(sys.modules)
started = time.process_time()
import finetree
seconds = time.process_time() - started
print(json.dumps({"seconds": seconds, "modules": sorted(set(sys.modules) - before)}))
"""


def measured() -> dict[str, object]:
    command = [sys.executable, "-c", MEASURE]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_importing_loads_neither_grpc_nor_protobuf_nor_asyncio():
    modules = measured()["modules"]
    heavy = {"grpc", "google", "finetree_api", "asyncio", "ssl", "uuid"}
    assert {module.partition(".")[0] for module in modules} & heavy == set()


def test_importing_takes_at_most_forty_milliseconds_of_cpu():
    # The quickest of three: what the import needs, not what else the machine does.
    assert min(measured()["seconds"] for _ in range(3)) <= 0.040


def test_every_public_name_resolves_and_is_listed():
    for name in finetree.__all__:
        assert getattr(finetree, name) is not None
    assert dir(finetree) == sorted(finetree.__all__)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(finetree, "Cleint")


def test_the_version_is_the_distributions():
    from importlib.metadata import version

    assert finetree.__version__ == version("finetree")


def test_the_users_choice_of_grpc_verbosity_wins():
    show = "import os, finetree; finetree.Client; print(os.environ['GRPC_VERBOSITY'])"

    def verbosity(**env: str) -> str:
        command = [sys.executable, "-c", show]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=env, timeout=60).stdout.strip()

    assert verbosity() == "ERROR"
    assert verbosity(GRPC_VERBOSITY="DEBUG") == "DEBUG"
