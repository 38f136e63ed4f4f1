# SPDX-License-Identifier: Apache-2.0
"""Simulates a fleet on a virtual clock with the trainer's real scheduler, and finds what stops it from growing.

    python benchmarks/trainer/fleet.py --devices 1000 --jobs 5000     # one run, until every job has ended
    python benchmarks/trainer/fleet.py --devices 10000 --jobs 100000 --full --rounds 40   # rounds of a full fleet
    python benchmarks/trainer/fleet.py --campaign --output benchmarks/results/trainer/fleet.json
    python benchmarks/trainer/fleet.py --plots benchmarks/results/trainer/fleet.json --folder docs/images

What is real and what is modelled stands in `fleet_world.py`, the workload in `fleet_workload.py`. Progress goes to
stderr, one JSON object to stdout or --output. Times are CPU seconds of the scheduler's own steps where nothing else is
said: they do not depend on what else the machine does as wall time does. A campaign runs each size in a process of its
own, one after another, and computes the walls from the committed figures of `databases.json` and `load.json`.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from fleet_meters import Costs
from fleet_walls import walls
from fleet_workload import NODE_MTBF, WEIGHTS, Plan
from fleet_world import World, simulate
from measured_on import machine

RESULTS = Path(__file__).parents[1] / "results/trainer"
LARGEST = (10_000, 100_000)
SIZES = (LARGEST, (1_000, 10_000), (100, 1_000), (10_000, 1_000), (1_000, 1_000), (100, 10_000), (10_000, 10_000))
"""Devices, all of them held, and jobs that wait beside."""
ROUNDS = 40
TO_THE_END = ("--devices", "200", "--jobs", "1000", "--arrivals", "both", "--node-mtbf", "360000")
"""Half of the jobs wait at once, the others come; nodes fail ten times as often as in the other runs."""


def told(world: World) -> dict[str, Any]:
    """What one simulation came to."""
    plan, queue, seen = world.plan, world.queue, world.seen
    seconds = world.virtual_seconds
    spent = sum(queue.rounds.cpu) + queue.first_round.get("cpu_seconds", 0.0)
    found: dict[str, Any] = {field.name: getattr(plan, field.name) for field in fields(plan)}
    found |= {
        "virtual_hours": round(seconds / 3600, 3),
        "most_running": seen.most_running,
        "ended": seen.ended,
        "violations": seen.violations,
        "checksum": f"{seen.checksum:016x}",
        "first_round": {name: round(value, 4) for name, value in queue.first_round.items()},
        "rounds_per_second": round(len(queue.rounds.cpu) / seconds, 4) if seconds else 0.0,
        "round": spread(queue.rounds, 1e3, "ms"),
        "rounds_cpu_of_a_second": round(spent / seconds, 4) if seconds else 0.0,
        "look_of_the_watch": spread(world.looks, 1e3, "ms"),
        "change": spread(queue.changes, 1e6, "us"),
        "node_change": spread(queue.node_changes, 1e3, "ms"),
        "store_cpu_seconds": round(world.store_cpu, 2),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "utilisation_while_jobs_wait": share(seen.busy, seen.there),
        "utilisation_while_all_projects_wait": share(seen.busy_contended, seen.contended_there),
        "shares": {name: share(seen.contended[name], seen.contended_there) for name in WEIGHTS},
        "wait_hours": {name: hours(seen.waits[name]) for name in WEIGHTS},
        "wait_hours_by_devices": {str(count): hours(waits) for count, waits in sorted(seen.waits_by_count.items())},
        "node_failures": seen.failures,
        "again_after_failure_seconds": hours(seen.again, unit=1.0),
        "lease_seconds": world.lease,
    }
    return found


def spread(costs: Costs, factor: float, unit: str) -> dict[str, float]:
    """Median and 99th percentile of some pieces of work, CPU and wall."""
    found: dict[str, float] = {"count": len(costs.cpu)}
    for name, values in (("cpu", costs.cpu), ("wall", costs.wall)):
        ordered = sorted(values)
        for part, label in ((0.5, "median"), (0.99, "p99")):
            at = ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0
            found[f"{name}_{label}_{unit}"] = round(at * factor, 3)
    return found


def hours(values: Sequence[float], unit: float = 3600.0) -> dict[str, float]:
    """How many, their median and their highest."""
    if not values:
        return {"count": 0}
    return {
        "count": len(values),
        "median": round(statistics.median(values) / unit, 3),
        "max": round(max(values) / unit, 3),
    }


def share(part: float, whole: float) -> float:
    """A part of a whole; 0 of nothing."""
    return round(part / whole, 4) if whole else 0.0


def campaign(before: Any, folder: Path | None) -> dict[str, Any]:
    """Every size, each in a process of its own, the runs, and the walls."""
    found: dict[str, Any] = {"benchmark": "fleet", "machine": machine(), "sizes": []}
    for devices, jobs in SIZES:
        given = ("--devices", str(devices), "--jobs", str(jobs), "--full", "--rounds", str(ROUNDS))
        found["sizes"].append(kept(given, folder))
    found["to_the_end"] = kept(TO_THE_END, folder)
    if before is not None:
        found["before"] = before
    databases, load = (json.loads((RESULTS / f"{name}.json").read_text("utf-8")) for name in ("databases", "load"))
    found["walls"] = walls(found, databases, load)
    return found


def kept(given: Sequence[str], folder: Path | None) -> dict[str, Any]:
    """One simulation, or what it came to in a campaign that was stopped before its end."""
    if folder is None:
        return in_a_process(given)
    file = folder / ("fleet" + "_".join(given).replace("--", "") + ".json")
    if not file.exists():
        file.write_text(json.dumps(in_a_process(given), indent=1), encoding="utf-8")
    return dict(json.loads(file.read_text(encoding="utf-8")))


def in_a_process(given: Sequence[str]) -> dict[str, Any]:
    """One simulation in a process of its own, whose memory is its alone."""
    print("fleet.py", *given, file=sys.stderr, flush=True)
    command = [sys.executable, __file__, *given]
    return dict(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))


def main() -> int:
    """Run what the command line asks for; 1 where an invariant did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--arrivals", choices=("backlog", "stream", "both"), default="backlog")
    parser.add_argument("--node-mtbf", type=float, default=NODE_MTBF, help="seconds between failures of a node")
    parser.add_argument("--start-seconds", type=float, default=0.0, help="time that a start holds up the next one")
    parser.add_argument("--full", action="store_true", help="all devices are held when the clock starts")
    parser.add_argument("--rounds", type=int, default=0, help="stop after so many rounds; 0: when every job has ended")
    parser.add_argument("--campaign", action="store_true", help="all sizes, the runs and the walls")
    parser.add_argument(
        "--keep", type=Path, help="with --campaign: folder of sizes that are done, to go on after a stop"
    )
    parser.add_argument("--before", type=Path, help="with --campaign: results of the code before a change, to be kept")
    parser.add_argument("--plots", type=Path, help="draw the plots of a result into --folder")
    parser.add_argument("--folder", type=Path, default=Path("docs/images"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.plots:
        from fleet_plots import plots

        for name, text in plots(json.loads(options.plots.read_text("utf-8"))).items():
            (options.folder / name).write_text(text, encoding="utf-8")
        return 0
    if options.campaign:
        found = campaign(json.loads(options.before.read_text("utf-8")) if options.before else None, options.keep)
        broken = any(each["violations"] for each in (*found["sizes"], found["to_the_end"]))
    else:
        names = [field.name for field in fields(Plan) if hasattr(options, field.name)]
        try:
            plan = Plan(**{name: getattr(options, name) for name in names})
        except ValueError as error:
            parser.error(str(error))
        found = told(simulate(plan, progress=lambda text: print(text, file=sys.stderr, flush=True)))
        broken = bool(found["violations"])
    text = json.dumps(found, indent=1) + "\n"
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
