# SPDX-License-Identifier: Apache-2.0
"""An environment with what the examples need besides the SDK; it is made once."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "docs" / "examples"
OWN_UV = ROOT / ".bootstrap" / "bin" / "uv"
UV = str(OWN_UV) if OWN_UV.exists() else shutil.which("uv") or "uv"
NEEDED = ("dagster==1.13.29", "fastapi==0.141.1", "uvicorn==0.53.0")

SDK = ("googleapis-common-protos", "grpcio", "protobuf")
"""What the SDK and the contract need; any release that an orchestrator brings will do."""


class Environment:
    """An environment, and how programs are started in it."""

    def __init__(self, folder: Path) -> None:
        self.python = folder / "bin" / "python"
        self.examples = EXAMPLES

    def variables(self, given: Mapping[str, str]) -> dict[str, str]:
        """Variables without those of this environment."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FINETREE"))}
        return kept | dict(given)

    def start(self, *words: str | Path, **variables: str) -> subprocess.Popen[str]:
        """Start Python with the words."""
        return subprocess.Popen(
            [self.python, *words],
            env=self.variables(variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("examples") / "environment"
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    made = Environment(folder)
    install = [UV, "pip", "install", "--quiet", "--python", made.python, *NEEDED, *SDK]
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    if "Failed to fetch" in installed.stderr:
        pytest.skip(f"the package index is out of reach, for {', '.join(NEEDED)}")
    assert installed.returncode == 0, installed.stderr
    (site,) = folder.glob("lib/python3*/site-packages")
    # The SDK alone: nothing of the command, the services or torch is needed.
    (site / "finetree.pth").write_text(f"{ROOT / 'clients' / 'python'}\n{ROOT / 'protos' / 'gen'}\n", encoding="utf-8")
    return made
