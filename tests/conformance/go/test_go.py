# SPDX-License-Identifier: Apache-2.0
"""The Go client: its stubs are generated, it is built and vetted, and it does what every client must.

`make conformance` runs it: it needs Go, which that installs, and Go's modules (modules.py).
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from client_conformance import ClientConformance, Program

sys.path.append(str(Path(__file__).resolve().parent))

import modules

HERE = Path(__file__).resolve().parent
BUILD_SECONDS = 900


def go_folder() -> Path:
    """Where the wheel of Go has its programs."""
    spec = importlib.util.find_spec("go")
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        pytest.fail("Go is not installed: run `make conformance`", pytrace=False)
    return Path(places[0]) / "bin"


def run(environment: dict[str, str], *command: str | Path) -> str:
    """Run a tool in the client's folder; its own words are the failure."""
    done = subprocess.run(
        command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )
    if done.returncode:
        pytest.fail(f"`{' '.join(map(str, command))}` failed:\n{done.stdout}{done.stderr}", pytrace=False)
    return done.stdout


@pytest.fixture(scope="module")
def program() -> Path:
    """The client, built."""
    go = go_folder()
    path = os.pathsep.join([str(go), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    environment = os.environ | {
        "PATH": path,
        "CGO_ENABLED": "0",
        "GOCACHE": str(HERE / "build/cache"),
        "GOTOOLCHAIN": "local",
        "XDG_CONFIG_HOME": str(HERE / "build/config"),  # Go keeps its settings and counters there
    }
    if os.environ.get("GO_MODULES") == "proxy":
        shutil.rmtree(HERE / "vendor", ignore_errors=True)
        run(environment, "go", "mod", "download", *modules.required())
    else:
        try:
            modules.vendor()
        except modules.ModulesMissingError as error:
            pytest.fail(str(error), pytrace=False)
        environment |= {"GOFLAGS": "-mod=vendor", "GOPROXY": "off"}
    run(environment, "buf", "generate")
    run(environment, "go", "build", "-o", "build/client", ".")
    run(environment, "go", "vet", ".")
    assert run(environment, "gofmt", "-l", *sorted(file.name for file in HERE.glob("*.go"))) == ""
    return HERE / "build/client"


@pytest.mark.timeout(BUILD_SECONDS)
class TestGo(ClientConformance):
    @pytest.fixture
    def client(self, program, services) -> Program:
        return Program((str(program),), services)


def test_another_version_than_that_of_go_mod_is_refused(tmp_path):
    with pytest.raises(
        modules.ModulesMissingError, match=r"go.mod asks for google.golang.org/grpc v1.64.0, .* is 1.38"
    ):
        modules.check(tmp_path / "golang-google-grpc-dev_1.38.0-1_all.deb")
    modules.check(tmp_path / "golang-golang-x-net-dev_1%3a0.27.0-2_all.deb")
