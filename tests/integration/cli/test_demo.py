# SPDX-License-Identifier: Apache-2.0
"""`finetree demo` end to end, once, on one country: what is recommended is what runs, and all of it is told."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

pytestmark = [pytest.mark.slow(50), pytest.mark.timeout(600)]

COUNTRIES = 1
"""Two held-out questions: enough to see that everything works; accuracy is measured on 60 by `make run`."""
CODE = re.compile(r"[A-Z]{3}|[0-9]{3}")
"""The form of an answer, of which the base model knows nothing."""


class Demo:
    """A finished `finetree demo --json`."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "finetree_cli", "demo", "--countries", str(COUNTRIES)]
        self.folder = folder
        self.done = subprocess.run(
            [*command, "--data-dir", str(folder), "--json"],
            check=False,
            capture_output=True,
            text=True,
            timeout=560,
            env={**os.environ, "FINETREE_TRAINER_ADDRESS": "127.0.0.1:1"},
        )

    @property
    def facts(self) -> Any:
        """The object on stdout."""
        return json.loads(self.done.stdout)


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Demo:
    return Demo(tmp_path_factory.mktemp("demo"))


def processes_of(folder: Path) -> list[str]:
    """Processes that were started with this folder in their command line or environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in told and int(entry.name) != os.getpid():
            found.append(entry.name)
    return found


def test_it_runs_to_the_end_without_a_warning_or_a_stack(demo):
    assert demo.done.returncode in (0, 4), demo.done.stderr
    for word in ("Traceback", "Warning", "warn(", "site-packages"):
        assert word not in demo.done.stderr
    # On so few countries the promised accuracy may be missed; then that, and nothing else, is the reason.
    if demo.done.returncode == 4:
        assert "[DEMO_BELOW_PROMISE]" in demo.done.stderr
        assert demo.facts["accuracy_after"] < 0.8


def test_exactly_what_was_recommended_was_trained(demo):
    facts = demo.facts
    assert facts["spec"] == facts["recommended_spec"]
    assert facts["method"] in facts["spec"]
    assert facts["actual"]["optimizer_steps"] == facts["estimate"]["optimizer_steps"] >= 24


def test_the_events_have_no_gap_and_end_with_terminal(demo):
    facts = demo.facts
    assert facts["events"] > facts["actual"]["optimizer_steps"]
    assert facts["events_gapless"] is True
    assert facts["last_event"] == "terminal"


def test_it_learns(demo):
    facts = demo.facts
    assert facts["final_loss"] < facts["first_loss"] / 2
    assert facts["accuracy_after"] >= facts["accuracy_before"]
    assert len(facts["samples"]) == 2
    assert not any(CODE.fullmatch(sample["before"].strip()) for sample in facts["samples"])
    assert all(CODE.fullmatch(sample["after"].strip()) for sample in facts["samples"])


def test_the_estimate_and_what_it_took_are_both_told(demo):
    facts = demo.facts
    for name in ("device_bytes", "total_seconds"):
        interval, actual = facts["estimate"][name], facts["actual"][name]
        assert 0 < interval["low"] <= interval["expected"] <= interval["high"]
        assert actual > 0


def test_the_adapter_is_a_trained_one_of_peft(demo):
    """That plain PEFT loads what the worker writes is seen in tests/unit/worker/methods/test_methods.py."""
    adapter = next(item for item in demo.facts["artifacts"] if item["kind"] == "adapter")
    config = json.loads((Path(adapter["path"]) / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["peft_type"], config["r"]) == ("LORA", demo.facts["spec"]["lora"]["rank"])
    tensors = load_file(Path(adapter["path"]) / "adapter_model.safetensors")
    assert any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)


def test_no_process_is_left(demo):
    assert demo.done.returncode is not None
    assert processes_of(demo.folder) == []
