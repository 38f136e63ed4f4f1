# SPDX-License-Identifier: Apache-2.0
"""The page on OpenAI's interface: its program, as it stands there, against the real suite with a small model."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from finetree_cli.backends.suite import Suite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

PAGE = Path(__file__).resolve().parents[3] / "docs" / "openai.md"
ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"What follows {n}?"},
            {"role": "assistant", "content": f"{n + 1} does."},
        ]
    }
    for n in range(4)
]
START_SECONDS = 60.0


def start_console(suite: Suite, folder: Path) -> tuple["subprocess.Popen[bytes]", str]:
    """Start a console in front of the suite; it ends with its standard input."""
    ready = folder / "console.ready"
    flags = [f"--{name}-address={address}" for name, address in suite.addresses.items()]
    command = [sys.executable, "-m", "finetree_console", "--address=127.0.0.1:0", f"--ready-file={ready}"]
    process = subprocess.Popen(
        [*command, "--stop-with-stdin", *flags], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + START_SECONDS
    while not ready.exists():
        assert process.poll() is None, "the console has ended"
        assert time.monotonic() < deadline, "the console is not ready"
        time.sleep(0.05)
    return process, json.loads(ready.read_text(encoding="utf-8"))["address"]


def test_the_unmodified_client_trains_an_adapter(small_smollm2, worker_flag, tmp_path):
    # Its model is there already, as on every day but the first.
    shutil.copytree(small_smollm2, tmp_path / "suite" / "trainer" / "models" / small_smollm2.name)
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    with Suite(tmp_path / "suite", extra={"trainer": (worker_flag,)}) as suite:
        console, address = start_console(suite, tmp_path)
        try:
            done = subprocess.run(
                [sys.executable, "-c", program],
                cwd=tmp_path,
                env={**os.environ, "OPENAI_BASE_URL": f"http://{address}/v1", "OPENAI_API_KEY": "any text"},
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )
        finally:
            assert console.stdin is not None
            console.stdin.close()
            console.wait(60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "['smollm2-135m-instruct']"
    job_id, status, method = lines[1].split()
    assert (status in ("queued", "validating_files"), method) == (True, "lora")
    events = [line for line in lines if line.startswith("ftevt-")]
    assert [line.split()[0] for line in events] == [f"ftevt-{seq:012d}" for seq in range(1, len(events) + 1)]
    assert "as the recommender chose" in events[0]
    ended, model, tokens = lines[2 + len(events)].split()
    assert (ended, model) == (
        "succeeded",
        f"ft:smollm2-135m-instruct:default:successors:{job_id.removeprefix('ftjob-')}",
    )
    assert int(tokens) > 0
    checkpoints = [line.split()[1:] for line in lines if line.startswith("checkpoint")]
    steps = [int(step) for step, _ in checkpoints]
    assert steps == sorted(steps, reverse=True)
    assert 1 in steps, done.stdout
    assert all(float(loss) > 0 for _, loss in checkpoints)
    config = json.loads((tmp_path / "result" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (tmp_path / "result" / "adapter" / "adapter_model.safetensors").stat().st_size > 10_000
    with (tmp_path / "result" / "step_metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert all(float(row["train_loss"]) > 0 for row in rows)
