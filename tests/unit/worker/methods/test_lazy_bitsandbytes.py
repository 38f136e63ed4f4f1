# SPDX-License-Identifier: Apache-2.0
"""bitsandbytes is imported by runs that need it, and by no other: in a process of its own, as a worker is one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from finetree_worker.methods.lazy_bitsandbytes import without_bitsandbytes

TRAINING = {
    "learning_rate": 1e-3,
    "max_steps": 1,
    "effective_batch_size": 2,
    "micro_batch_size": 2,
    "sequence_length": 64,
}
PLAIN = {"training": TRAINING, "precision": "PRECISION_FP32"}
RUNS: list[dict[str, Any]] = [
    PLAIN | {"lora": {"rank": 2}},
    PLAIN | {"prefix": {"virtual_tokens": 2, "init": "PREFIX_INIT_ZERO"}},
    PLAIN | {"adapter": {"bottleneck_size": 4}},
    PLAIN | {"full": {}},
    PLAIN | {"qlora": {"lora": {"rank": 2}, "quantization": "QUANTIZATION_NF4"}},
    PLAIN | {"lora": {"rank": 2}},
]
"""LoRA last again: in a process that has imported bitsandbytes it is the same training."""
WORKER = """
import json, sys
from pathlib import Path
from finetree_api.trainer.v1 import event_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.control import Signal
from finetree_worker.process.core import TrainingCore
from google.protobuf import json_format

class Quiet:
    def emit(self, payload, **_): pass
    def poll(self): return Signal.NONE

base, rows, folder, first, runs = sys.argv[1:]
if first:
    __import__(first)
core, found = TrainingCore(), []
core.warm_up()
for number, spec in enumerate(json.loads(runs)):
    made = Path(folder, str(number))
    task = worker_pb2.Task(attempt=1, threads=1, dataset_file=rows)
    task.base.model_dir = base
    task.folders.work_dir, task.folders.artifact_dir = str(made / "work"), str(made / "artifacts")
    json_format.ParseDict(spec, task.train.spec)
    core.train(task, Quiet(), Quiet())
    found.append("bitsandbytes" in sys.modules)
print(json.dumps(found))
"""


def trained(
    base: Path, rows: Path, folder: Path, *, runs: list[dict[str, Any]], first: str = ""
) -> tuple[list[bool], list[bytes]]:
    """Train in a new process that imports `first` before all else.

    Returns whether bitsandbytes is imported after each run, and the weights of each.
    """
    given = [str(base), str(rows), str(folder), first, json.dumps(runs)]
    command = [sys.executable, "-W", "ignore", "-c", WORKER, *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    files = [next(Path(folder, str(n), "artifacts").rglob("*.safetensors")) for n in range(len(runs))]
    return json.loads(done.stdout.splitlines()[-1]), [file.read_bytes() for file in files]


def test_only_a_quantized_base_imports_bitsandbytes(base_folder: Path, tmp_path: Path, write_rows: Any) -> None:
    rows = write_rows([{"prompt": f"{n} + 1 =", "completion": str(n + 1)} for n in range(4)])
    imported, weights = trained(base_folder, rows, tmp_path / "all", runs=RUNS)
    assert imported == [False, False, False, False, True, True]
    assert weights[5] == weights[0]
    # QLoRA by a peft that was imported without it, and by one that had it from the beginning.
    _, usual = trained(base_folder, rows, tmp_path / "usual", runs=RUNS[4:5], first="bitsandbytes")
    assert usual == weights[4:5]


def test_bitsandbytes_can_be_imported_after_a_block_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from peft.import_utils import is_bnb_available

    for name in [name for name in sys.modules if name.partition(".")[0] == "bitsandbytes"]:
        monkeypatch.delitem(sys.modules, name)
    is_bnb_available.cache_clear()
    seen = []

    def fail() -> None:
        with without_bitsandbytes():
            seen.append(is_bnb_available())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert seen == [False]
    assert "bitsandbytes" not in sys.modules
    assert is_bnb_available()
