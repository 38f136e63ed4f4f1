# SPDX-License-Identifier: Apache-2.0
"""A million rows and more through a running trainer: upload, check and tokenization, with the memory of each process.

    python benchmarks/worker/data_scale.py [--rows 1000000 4000000] [--output data_scale.json]

The suite runs as `finetree up` starts it, SmolLM2 is prepared once, and each file of sums ("4711 + 2048 = ?", about 38
bytes a row) is uploaded and prepared by a job. Memory is the peak of the resident set (VmHWM) of the trainer and of the
job's worker; seconds are wall clock of the upload with its check of all rows, and of the job.
"""

import argparse
import json
import platform
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

import psutil
from finetree import Client, Job
from finetree_cli.backends.suite import Suite
from finetree_worker.process.core import cpu_name

MODEL = "smollm2-135m-instruct"


def write(path: Path, rows: int) -> None:
    """Write sums, each row another one."""
    with path.open("w", encoding="utf-8") as stream:
        for number in range(rows):
            left, right = number % 9973, number // 9973
            stream.write(f'{{"prompt": "{left} + {right} =", "completion": "{left + right}"}}\n')


class Peaks:
    """Peak memory of the trainer and of its workers while a block runs, read four times a second."""

    def __init__(self, trainer: psutil.Process) -> None:
        self._trainer, self._stop = trainer, threading.Event()
        self.trainer, self.worker = 0, 0

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.25):
            self.trainer = max(self.trainer, _peak(self._trainer))
            self.worker = max(self.worker, *(_peak(child) for child in self._trainer.children(recursive=True)), 0)


def _peak(process: psutil.Process) -> int:
    try:
        text = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM:")), 0)


def measure(client: Client, trainer: psutil.Process, file: Path, rows: int) -> dict[str, Any]:
    """Upload and prepare one file."""
    write(file, rows)
    with Peaks(trainer) as peaks:
        began = time.monotonic()
        dataset = client.upload_dataset(file)
        uploaded = time.monotonic()
        job: Job = client.prepare(model=MODEL, dataset=dataset.name)
        job.wait()
        ended = time.monotonic()
    return {
        "rows": rows,
        "file_bytes": file.stat().st_size,
        "upload_and_check_seconds": round(uploaded - began, 1),
        "prepare_seconds": round(ended - uploaded, 1),
        "prepared_rows_per_second": round(rows / (ended - uploaded)),
        "trainer_peak_bytes": peaks.trainer,
        "worker_peak_bytes": peaks.worker,
    }


def main() -> None:
    """Measure every size against one running suite and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 4_000_000])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Suite(Path(folder, "suite")) as suite:
        trainer = psutil.Process(suite.children["trainer"].process.pid)
        with Client(trainer_address=suite.addresses["trainer"], profile="") as client:
            client.prepare(model=MODEL).wait()
            found = [measure(client, trainer, Path(folder, f"{rows}.jsonl"), rows) for rows in options.rows]
    machine = {"cpu": cpu_name(), "cores": psutil.cpu_count(logical=False), "python": platform.python_version()}
    text = json.dumps({"machine": machine, "files": found}, indent=2) + "\n"
    print(text, end="")
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
