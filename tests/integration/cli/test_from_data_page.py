# SPDX-License-Identifier: Apache-2.0
"""docs/from-data-to-a-served-adapter.md, its commands run one after another by a shell, as its reader would."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pycountry
import pytest
from finetree_cli.backends.suite import Suite

pytestmark = [pytest.mark.slow(50), pytest.mark.timeout(600)]

PAGE = Path(__file__).parents[3] / "docs/from-data-to-a-served-adapter.md"
SCRIPTS = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def rows(countries) -> str:
    """Questions after a country's code, and the code."""
    return "".join(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"What is the alpha-3 code of {country.name}?"},
                    {"role": "assistant", "content": country.alpha_3},
                ]
            }
        )
        + "\n"
        for country in countries
    )


@pytest.fixture(scope="module")
def suite(small_smollm2, worker_flag, tmp_path_factory) -> Iterator[Suite]:
    """A suite of the page's own, since its estimator learns from what is trained; it has the model already."""
    folder = tmp_path_factory.mktemp("suite")
    shutil.copytree(small_smollm2, folder / "trainer" / "models" / small_smollm2.name)
    with Suite(folder, extra={"trainer": ("--no-prewarm", worker_flag)}) as running:
        yield running


@pytest.fixture(scope="module")
def hub() -> Iterator[Any]:
    """A model hub on loopback."""
    file = Path(__file__).parents[2] / "contract" / "worker" / "models" / "hub_server.py"
    spec = importlib.util.spec_from_file_location("hub_server", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault("hub_server", importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    with module.Hub() as running:
        yield running


def test_the_page_does_what_it_says(suite, hub, tmp_path):
    countries = list(pycountry.countries)
    (tmp_path / "train.jsonl").write_text(rows(countries[:4]), encoding="utf-8")
    (tmp_path / "held-out.jsonl").write_text(rows(countries[24:28]), encoding="utf-8")
    addresses = {f"FINETREE_{name.upper()}_ADDRESS": address for name, address in suite.addresses.items()}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = "set -euo pipefail\n" + "".join(SCRIPTS)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={
            **os.environ,
            **addresses,
            "PATH": path,
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": hub.token,
            "NO_PROXY": "127.0.0.1",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    for said in ("base:", "95% intervals", "learning_rate=", "Settings that differ", "programs  accelerate"):
        assert said in done.stdout, said
    assert (tmp_path / "compare.svg").read_text(encoding="utf-8").rstrip().endswith("</svg>")
    assert list((tmp_path / "adapter").rglob("adapter_config.json"))
    (exported,) = (tmp_path / "exported").rglob("*.gguf")
    assert exported.read_bytes()[:4] == b"GGUF"
    pushed = hub.repos["my-team/country-codes"]
    assert pushed.private
    assert b'"my-team/country-codes"' in pushed.files["README.md"]


def test_every_command_of_the_page_is_run_or_needs_a_server():
    shown = re.findall(r"^(?:\w+=\$\()?finetree (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    run = [line for script in SCRIPTS for line in script.splitlines() if "finetree" in line]
    assert len(shown) - len(run) == 1
