# SPDX-License-Identifier: Apache-2.0
"""The jobs of a stored database that have not ended, the newest that have, and the curves of their losses."""

from typing import Any

from finetree import to_json
from finetree_api.trainer.v1 import job_pb2, metrics_pb2
from sqlalchemy import Connection, text

from finetree_trainer.clock import timestamp
from finetree_trainer.joblog import states
from finetree_trainer.joblog.metrics import read_curves
from finetree_trainer.jobs.jobs import message_of
from finetree_trainer.store import jobs
from finetree_trainer.store.jobs import JobRow

ENDED = 5
"""Jobs that have ended and are shown all the same, the newest."""
POINTS = 60
"""Most points of a curve."""
METRICS = ("loss", "eval_loss")

_NEWEST_ENDED = text("SELECT uid FROM jobs WHERE end_time > 0 ORDER BY end_time DESC LIMIT :limit")
_LAST_CHANGE = text("SELECT MAX(update_time) FROM jobs")


def overview(connection: Connection) -> dict[str, Any]:
    """Jobs as messages, curves by the name of their job, and when anything of a job last changed.

    Raises FailedPrecondition EVENTS_DAMAGED.
    """
    rows = jobs.in_states(connection, states.LIVE)
    for uid in connection.execute(_NEWEST_ENDED, {"limit": ENDED}).scalars():
        row = jobs.load(connection, uid)
        if row is not None:
            rows.append(row)
    found: dict[str, Any] = {
        "jobs": [to_json(message_of(row)) for row in rows],
        "curves": {row.name: _curves(connection, row) for row in rows if row.task == job_pb2.TASK_KIND_TRAIN},
    }
    changed = connection.execute(_LAST_CHANGE).scalar()
    if changed:
        found["update_time"] = timestamp(int(changed)).ToJsonString()
    return found


def _curves(connection: Connection, row: JobRow) -> dict[str, Any]:
    request = metrics_pb2.QueryMetricsRequest(metrics=METRICS, max_points=POINTS)
    return to_json(read_curves(connection, row.uid, request))
