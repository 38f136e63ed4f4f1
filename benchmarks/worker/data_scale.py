# SPDX-License-Identifier: Apache-2.0
"""Files of rows through a running trainer, as a user takes them: upload, check with a model, ready to train.

    python benchmarks/worker/data_scale.py [--chats 200000] [--sums 1000000 4000000] [--output data_scale.json]

The suite runs as `finetree up` starts it, and SmolLM2 is prepared once. Chats are short: sentences of Python's own
documentation in 2 to 5 turns, about 105 tokens. Sums ("4711 + 2048 = ?") have about 38 bytes a row. Each file is
uploaded with the service's check of its beginning; a job checks all rows and tokenizes them (`finetree data check`, and
what `finetree train --data` does first); a second job on the file takes the tokens from the cache, as a training does.

Seconds are wall clock, with the load before each file. Processor seconds and memory are those of the worker that
checks: of its thread that reads, checks and renders, and of all others, the one that tokenizes first of all. Where both
add up to more than the wall clock, two cores worked at once. Memory is the peak of the resident set (VmHWM).
"""

import argparse
import json
import os
import platform
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Self

import docstring_rows
import psutil
from finetree import Client
from finetree_cli.backends.suite import Suite
from finetree_worker.process.core import cpu_name

MODEL = "smollm2-135m-instruct"
SEED = 7
QUIET_SECONDS, LONGEST_WAIT = 2.0, 120.0
"""A worker is ready when it has not worked for so long; it is waited for at most so long."""


def write_sums(path: Path, rows: int) -> None:
    """Write sums, each row another one."""
    with path.open("w", encoding="utf-8") as stream:
        for number in range(rows):
            left, right = number % 9973, number // 9973
            stream.write(f'{{"prompt": "{left} + {right} =", "completion": "{left + right}"}}\n')


def write_chats(path: Path, rows: int) -> None:
    """Write short chats of sentences that people wrote, in an order that a seed decides; each asks something else."""
    sentences, random = docstring_rows.sentences(), Random(SEED)
    with path.open("w", encoding="utf-8") as stream:
        for number in range(rows):
            turns = [] if random.random() < 0.75 else [("system", random.choice(sentences))]
            for _ in range(1 if random.random() < 0.7 else 2):
                answer = " ".join(random.choice(sentences) for _ in range(random.choice((1, 1, 2, 3))))
                turns += [("user", f"{number}: {random.choice(sentences)}"), ("assistant", answer)]
            messages = [{"role": role, "content": content} for role, content in turns]
            stream.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


WRITERS = {"chats": write_chats, "sums": write_sums}


class Watch:
    """Peak memory and processor time of the trainer and its workers while a block runs, read four times a second."""

    def __init__(self, trainer: psutil.Process) -> None:
        self._trainer, self._stop = trainer, threading.Event()
        self._peaks: dict[int, int] = {}
        self._threads: dict[int, dict[int, tuple[float, float]]] = {}

    def __enter__(self) -> Self:
        self._look()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.25):
            self._look()

    def _look(self) -> None:
        for process in (self._trainer, *self._trainer.children(recursive=True)):
            try:
                now = {thread.id: thread.user_time + thread.system_time for thread in process.threads()}
            except psutil.Error:
                continue
            self._peaks[process.pid] = max(self._peaks.get(process.pid, 0), _peak(process))
            known = self._threads.setdefault(process.pid, {})
            for thread, seconds in now.items():
                known[thread] = known.get(thread, (seconds, 0.0))[0], seconds

    def figures(self) -> dict[str, Any]:
        """Figures of the trainer, and of the worker that worked most: others load libraries, or end."""
        used = {
            pid: {thread: last - first for thread, (first, last) in threads.items()}
            for pid, threads in self._threads.items()
            if pid != self._trainer.pid
        }
        worker = max(used, key=lambda pid: sum(used[pid].values()))
        main = used[worker].get(worker, 0.0)
        return {
            "worker_cpu_seconds": {"reading": round(main, 1), "others": round(sum(used[worker].values()) - main, 1)},
            "trainer_peak_bytes": self._peaks[self._trainer.pid],
            "worker_peak_bytes": self._peaks[worker],
        }


def _peak(process: psutil.Process) -> int:
    try:
        text = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM:")), 0)


def wait_for_idle_worker(trainer: psutil.Process) -> None:
    """Wait until one worker is left that has loaded its libraries: the last job's has ended then."""
    end = time.monotonic() + LONGEST_WAIT
    while time.monotonic() < end:
        before = _worked(trainer)
        time.sleep(QUIET_SECONDS)
        now = _worked(trainer)
        if len(now) == 1 and before.keys() == now.keys() and sum(now.values()) - sum(before.values()) < 0.1:
            return


def _worked(trainer: psutil.Process) -> dict[int, float]:
    found = {}
    for child in trainer.children(recursive=True):
        with suppress(psutil.Error):
            times = child.cpu_times()
            found[child.pid] = times.user + times.system
    return found


def measure(client: Client, trainer: psutil.Process, file: Path, rows: int) -> dict[str, Any]:
    """Upload a file, check it, and prepare it again as a training does."""
    load = os.getloadavg()[0]
    with Watch(trainer) as watch:
        began = time.monotonic()
        dataset = client.upload_dataset(file)
        uploaded = time.monotonic()
        client.prepare(model=MODEL, dataset=dataset.name).wait()
        checked = time.monotonic()
        figures = watch.figures()
    client.prepare(model=MODEL, dataset=dataset.name).wait()
    ready = time.monotonic()
    return {
        "rows": rows,
        "file_bytes": file.stat().st_size,
        "load_before": round(load, 1),
        "upload_seconds": round(uploaded - began, 1),
        "check_seconds": round(checked - uploaded, 1),
        "again_seconds": round(ready - checked, 1),
        "rows_per_second": round(rows / (ready - began)),
    } | figures


def main() -> None:
    """Measure every file against one running suite and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--chats", type=int, nargs="*", default=[200_000])
    parser.add_argument("--sums", type=int, nargs="*", default=[1_000_000, 4_000_000])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Suite(Path(folder, "suite")) as suite:
        trainer = psutil.Process(suite.children["trainer"].process.pid)
        with Client(trainer_address=suite.addresses["trainer"], profile="") as client:
            client.prepare(model=MODEL).wait()
            found, asked = [], {"chats": options.chats, "sums": options.sums}
            for kind, count in ((kind, count) for kind, counts in asked.items() for count in counts):
                file = Path(folder, f"{kind}-{count}.jsonl")
                WRITERS[kind](file, count)
                wait_for_idle_worker(trainer)
                found.append({"kind": kind} | measure(client, trainer, file, count))
    machine = {"cpu": cpu_name(), "cores": psutil.cpu_count(logical=False), "python": platform.python_version()}
    text = json.dumps({"machine": machine, "files": found}, indent=2) + "\n"
    print(text, end="")
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
