# SPDX-License-Identifier: Apache-2.0
"""Where the walls are: what a fleet asks of one trainer, against what a trainer and one PostgreSQL were measured at."""

import math
from typing import Any

from fleet_workload import MEDIAN_SECONDS, SIGMA

EVENTS_PER_SECOND = 1.0
"""Events of a running job: a step of a second, each of which is reported. A worker sends what comes within 50 ms
together, so that each is a change of its own."""
BATCHES = (1, 3, 10)
"""Events of a change, where workers collected them; with 3 the databases were measured."""
WATCHERS = 1000
STARTS_PER_SECOND = 0.5
"""Workers that a Ray cluster begins: about thirty a minute, two seconds each (docs/scale.md)."""
MEAN_SECONDS = MEDIAN_SECONDS * math.exp(SIGMA**2 / 2)


def walls(found: dict[str, Any], databases: dict[str, Any], load: dict[str, Any]) -> dict[str, Any]:
    """The largest number of devices by each limit of one trainer, the lowest first, and what was put in."""
    large = max(found["sizes"], key=lambda each: (each["devices"], each["jobs"]))
    running = large["most_running"]
    jobs_of_a_device = running / large["devices"]
    server, watching = databases["postgresql"]["jobs_100"], load["watchers"]["all_read"]
    changes = server["changes_per_second"]
    core = 1e6 / server["cpu_us_per_change"]
    ends = running / MEAN_SECONDS
    # Rounds of one end of a job cost more with more devices, and there are more ends: their product has the square.
    busy = ends * rounds_of_an_end(large)
    devices = {
        "database_commits": changes / EVENTS_PER_SECOND / jobs_of_a_device,
        "one_core_of_the_trainer": core / EVENTS_PER_SECOND / jobs_of_a_device,
        "starts_of_workers": STARTS_PER_SECOND * MEAN_SECONDS / jobs_of_a_device,
        "scheduling_rounds": large["devices"] / math.sqrt(busy),
    }
    return {
        "events_per_second_of_a_job": EVENTS_PER_SECOND,
        "jobs_of_a_device": round(jobs_of_a_device, 4),
        "running_jobs": running,
        "events_needed_per_second": round(running * EVENTS_PER_SECOND),
        "changes_needed_per_second": {str(batch): round(running * EVENTS_PER_SECOND / batch) for batch in BATCHES},
        "postgresql_changes_per_second": changes,
        "postgresql_events_per_second": server["events_per_second"],
        "starts_needed_per_second": round(ends, 3),
        "cores_of_rounds": {
            str(each["jobs"]): round(ends * rounds_of_an_end(each), 3)
            for each in sorted(found["sizes"], key=lambda each: each["jobs"])
            if each["devices"] == large["devices"]
        },
        "starts_per_second": STARTS_PER_SECOND,
        "devices": {name: round(value, -1) for name, value in sorted(devices.items(), key=lambda each: each[1])},
        "devices_by_events_of_a_change": {
            str(batch): round(changes * batch / EVENTS_PER_SECOND / jobs_of_a_device, -1) for batch in BATCHES
        },
        "trainers_needed": {str(batch): math.ceil(running * EVENTS_PER_SECOND / batch / changes) for batch in BATCHES},
        "watchers": {
            "count": WATCHERS,
            "cores": round(WATCHERS * EVENTS_PER_SECOND * watching["cpu_us_per_message"] / 1e6, 3),
            "mib": round(WATCHERS * watching["bytes_per_watcher"] / 2**20, 1),
        },
    }


def rounds_of_an_end(size: dict[str, Any]) -> float:
    """CPU seconds of all rounds that follow from one end of a job, on average."""
    return float(size["rounds_cpu_of_a_second"] * size["virtual_hours"] * 3600 / size["ended"])
