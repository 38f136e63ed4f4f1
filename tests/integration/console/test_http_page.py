# SPDX-License-Identifier: Apache-2.0
"""docs/http.md: its commands are run by bash as they stand there, against what `finetree up --http` starts.

The services and the console are real programs. The task of the job is done by a scripted worker, which speaks to the
trainer as the real one does and needs no training libraries.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from finetree_cli.backends.suite import CONSOLE, Suite

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
WORKER = ROOT / "tests" / "contract" / "trainer" / "scripted_worker.py"
MISSING = [program for program in ("bash", "curl", "jq") if shutil.which(program) is None]
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ROWS = [{"split": "SPLIT_TRAIN", "row": row, "tokens": 9, "target_tokens": 3} for row in range(1, 20)]


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    script = folder / "script.json"
    script.write_text(json.dumps({"report": 2000, "preview": ROWS, "log": "logged"}))
    command = f"{sys.executable},{WORKER},--script,{script}"
    extra = {"trainer": ("--no-prewarm", f"--worker-command={command}")}
    with Suite(folder / "suite", http="127.0.0.1:0", extra=extra) as running:
        yield running


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"the page's commands need {' and '.join(MISSING)}")
def test_the_commands_of_the_page_do_what_it_says(suite, tmp_path):
    environment = {**os.environ, "CONSOLE": f"http://{suite.children[CONSOLE].address}", "LC_ALL": "C"}
    script = "set -euo pipefail\n" + "\n".join(BLOCKS)
    command = ["bash", "-c", script]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert any(line.startswith("LoRA: ") for line in said)
    assert said.index("DATASET_STATE_UPLOADING") < said.index("DATASET_STATE_READY") < said.index("JOB_STATE_SUCCEEDED")
    logged = [line for line in said if line.endswith(": logged")]
    assert [line.partition(":")[0] for line in logged] == [f"attempt 1 step {step}" for step in (1, 2, 3)]
    numbers = [int(line.split()[0]) for line in said if re.match(r"\d+ ", line)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert "complete" in said
    assert "HTTP/1.1 404 Not Found" in said
    assert "did you mean model?" in done.stdout
    assert json.loads((tmp_path / "artifacts.json").read_text())["artifacts"]


def test_it_stops_with_the_suite(suite):
    process = suite.children[CONSOLE].process
    assert process.poll() is None
    suite.stop()
    assert process.returncode == 0, suite.children[CONSOLE].log.read_text()


def test_every_reason_and_header_of_the_page_is_in_the_code():
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "clients/console").rglob("*.py"))
    own = re.search(r"^\| status \|.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)[0]
    codes = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", own)) - {"SERVICE_UNREACHABLE"}  # the SDK's
    assert not [each for each in codes if each not in code]
