# SPDX-License-Identifier: Apache-2.0
"""The READMEs' examples of the SDK, run as they stand there, against the real suite with a small model of that name."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from finetree_cli.backends.suite import Suite

pytestmark = [pytest.mark.slow(26), pytest.mark.timeout(280)]

ROOT = Path(__file__).resolve().parents[3]
ROWS = [{"prompt": f"What follows {n}?", "completion": f"{n + 1} does."} for n in range(3)]


@pytest.fixture(scope="module")
def suite(small_smollm2, worker_flag, tmp_path_factory) -> Iterator[Suite]:
    """One suite for both: its model is there already, as on every day but the first; the demo's test begins without."""
    folder = tmp_path_factory.mktemp("suite")
    shutil.copytree(small_smollm2, folder / "trainer" / "models" / small_smollm2.name)
    with Suite(folder, extra={"trainer": (worker_flag,)}) as made:
        yield made


@pytest.mark.parametrize("readme", ["README.md", "clients/python/README.md"])
def test_the_example_trains_an_adapter(readme, suite, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / readme).read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    addresses = {f"FINETREE_{name.upper()}_ADDRESS": address for name, address in suite.addresses.items()}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env={**os.environ, **addresses},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    numbers = [int(line.split()[0]) for line in done.stdout.splitlines() if line[:1].isdigit()]
    assert len(numbers) > 10
    assert numbers == list(range(1, len(numbers) + 1))
    (config,) = (tmp_path / "adapter").rglob("adapter_config.json")
    assert json.loads(config.read_text())["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
