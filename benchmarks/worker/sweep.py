# SPDX-License-Identifier: Apache-2.0
"""Eight trials of one base as a sweep through one worker, beside the same eight jobs with a process each.

    python benchmarks/worker/sweep.py
    python benchmarks/worker/sweep.py --steps 60 --output benchmarks/results/worker/sweep.json

LoRA on SmolLM2-135M with two ranks and four learning rates, on rows of some 50 tokens, one job at a time. The suite
runs as `finetree up` starts it; the second time with `--base-rest 0`, so that no worker takes a second job. Seconds are
wall clock, from the first request to the last job's end; processor seconds are those of the workers that ran the jobs,
read twenty times a second and divided into phases by the times of the jobs' events. "start" is what a process has done
before its job's first event, the import of its libraries above all; "end" what comes after the last phase.
"""

import argparse
import json
import sqlite3
import sys
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import psutil
from finetree import Client
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_cli.backends.suite import Suite

sys.path.insert(0, str(Path(__file__).parents[1] / "trainer"))

from measured_on import machine
from method_runs import BATCH, LENGTH, LORA, MODEL

RANKS, RATES = (4, 16), (1e-4, 2e-4, 4e-4, 8e-4)
ROWS = 96
LOOK_SECONDS = 0.05
PREFLIGHT = "preflight"
REST_SECONDS = 120.0
"""How long a worker waits for the next trial: long enough on a loaded machine."""


def spec(dataset: str, steps: int, *, rank: int = RANKS[0], rate: float = RATES[0]) -> dict[str, Any]:
    """A trial's RunSpec in proto JSON."""
    return {
        "model": {"name": MODEL},
        "dataset": {"name": dataset},
        "lora": LORA | {"rank": rank},
        "precision": "PRECISION_BF16",
        "gradient_checkpointing": "GRADIENT_CHECKPOINTING_OFF",
        "training": {
            "max_steps": steps,
            "learning_rate": rate,
            "effective_batch_size": BATCH,
            "micro_batch_size": BATCH,
            "sequence_length": LENGTH,
            "packing": "PACKING_ON",
            "seed": 1,
        },
    }


class Clock:
    """Processor seconds of each worker over time, while a block runs."""

    def __init__(self, trainer: psutil.Process) -> None:
        self._trainer, self._stop = trainer, threading.Event()
        self._seen: dict[int, list[tuple[float, float]]] = {}

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            for child in self._trainer.children(recursive=True):
                with suppress(psutil.Error):
                    times = child.cpu_times()
                    self._seen.setdefault(child.pid, []).append((time.time(), times.user + times.system))

    def at(self, pid: int, moment: float) -> float:
        """Processor seconds of a process at a moment, between two looks in proportion."""
        seen = self._seen[pid]
        after = bisect_right(seen, (moment, float("inf")))
        if after in {0, len(seen)}:
            return seen[0][1] * (moment >= seen[0][0]) if after == 0 else seen[-1][1]
        (start, before), (end, then) = seen[after - 1], seen[after]
        return before + (then - before) * (moment - start) / (end - start)


@contextmanager
def suite(folder: Path, rest: float) -> Iterator[tuple[Client, psutil.Process]]:
    """Run the suite, whose workers wait so long for another job, with the model prepared."""
    with Suite(folder, extra={"trainer": ("--base-rest", str(rest))}) as running:
        trainer = psutil.Process(running.children["trainer"].process.pid)
        with Client(trainer_address=running.addresses["trainer"], profile="") as client:
            client.prepare(model=MODEL).wait(check=True)
            yield client, trainer


def as_sweep(client: Client, dataset: str, steps: int) -> list[str]:
    """Run the trials as a sweep, one at a time; the names of their jobs."""
    job = {"train": {"spec": spec(dataset, steps)}}
    parameters: dict[str, Any] = {"lora.rank": list(RANKS), "training.learning_rate": list(RATES)}
    created = client.create_sweep(job, parameters, max_parallel=1)
    *_, ended = client.watch_sweep(created.name)
    return [trial.job for trial in ended.trials]


def one_by_one(client: Client, dataset: str, steps: int) -> list[str]:
    """Run the same jobs one after another; their names."""
    names = []
    for rank in RANKS:
        for rate in RATES:
            job = client.train(spec(dataset, steps, rank=rank, rate=rate))
            job.wait(check=True)
            names.append(job.name)
    return names


def phases(client: Client, clock: Clock, jobs: Sequence[str], folder: Path) -> dict[str, Any]:
    """Processor seconds of all jobs by phase, how many processes ran them, and the final loss of each."""
    found: dict[str, float] = {}
    last: dict[int, float] = {}
    losses = []
    for name in jobs:
        pid, loss = _process(folder, name), None
        for event in client.job(name).events():
            moment, phase = event.worker_time.ToMicroseconds() / 1e6, _phase(event)
            if event.HasField("step_metrics"):
                loss = event.step_metrics.loss
            if phase:
                now = clock.at(pid, moment)
                found[phase] = found.get(phase, 0.0) + now - last.get(pid, 0.0)
                last[pid] = now
        losses.append(loss)
    for pid, before in last.items():
        found["end"] = found.get("end", 0.0) + clock.at(pid, float("inf")) - before
    rounded = {phase: round(seconds, 2) for phase, seconds in found.items()}
    return {"processes": len(last), "cpu_seconds": round(sum(found.values()), 1), "phases": rounded, "losses": losses}


def _phase(event: event_pb2.JobEvent) -> str:
    """Return the phase that ends with an event; empty where none does."""
    if event.HasField("preflight_report"):
        return PREFLIGHT
    if not event.HasField("phase_progress"):
        return ""
    name = job_pb2.JobPhase.Name(event.phase_progress.phase).removeprefix("JOB_PHASE_").lower()
    if event.phase_progress.fraction == 1.0:
        return name
    return {"load_model": "start", "train": "adapt"}.get(name, "") if event.phase_progress.fraction == 0.0 else ""


def _process(folder: Path, job: str) -> int:
    with sqlite3.connect(f"file:{folder / 'trainer' / 'trainer.db'}?mode=ro", uri=True) as database:
        asked = "SELECT pid FROM attempts WHERE job_uid = ? ORDER BY attempt DESC"
        return int(database.execute(asked, (job.rpartition("/")[2],)).fetchone()[0])


def measured(folder: Path, rows: Path, *, steps: int, swept: bool) -> dict[str, Any]:
    """Run the eight jobs in a suite of their own; what they took."""
    with suite(folder, REST_SECONDS if swept else 0.0) as (client, trainer), Clock(trainer) as clock:
        dataset = client.upload_dataset(rows).name
        began = time.monotonic()
        jobs = (as_sweep if swept else one_by_one)(client, dataset, steps)
        seconds = time.monotonic() - began
        return {"wall_seconds": round(seconds, 1)} | phases(client, clock, jobs, folder)


def main() -> None:
    """Measure both ways, print them and write them where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of each job")
    parser.add_argument("--output", type=Path, help="file for the figures as JSON")
    asked = parser.parse_args()
    found: dict[str, Any] = {"machine": machine(), "steps": asked.steps, "jobs": len(RANKS) * len(RATES)}
    with tempfile.TemporaryDirectory() as name:
        rows = Path(name, "rows.jsonl")
        lines = ({"prompt": f"What is the code of {n}?", "completion": f"It is {n * 7919 % 997}."} for n in range(ROWS))
        rows.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        for way, swept in (("sweep", True), ("one_by_one", False)):
            found[way] = measured(Path(name, "suite"), rows, steps=asked.steps, swept=swept)
    alike = found["sweep"].pop("losses") == found["one_by_one"].pop("losses")
    kinds = ("cpu_seconds", "wall_seconds")
    found["times_one_by_one"] = {kind: round(found["one_by_one"][kind] / found["sweep"][kind], 2) for kind in kinds}
    found["same_losses"] = alike
    text = json.dumps(found, indent=2) + "\n"
    print(text, end="")
    if asked.output:
        asked.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
