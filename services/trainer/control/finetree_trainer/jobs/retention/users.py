# SPDX-License-Identifier: Apache-2.0
"""Who needs what a job made: jobs that start from it, serve, export or measure it, and sweeps whose trial it is."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetree_api.trainer.v1 import job_pb2, sweep_pb2
from finetree_api.types.v1 import weights_pb2
from finetree_runtime.errors import FailedPrecondition
from sqlalchemy import Connection, select

from finetree_trainer.joblog import states
from finetree_trainer.jobs.sweeps import rows as sweep_rows
from finetree_trainer.jobs.sweeps.sweeps import LIVE
from finetree_trainer.layout import Layout
from finetree_trainer.store import jobs, schema

_VERBS = {"train": "starts from", "export": "exports", "evaluate": "measures", "serve": "serves"}


@dataclass(frozen=True, slots=True)
class Use:
    """What one live job or sweep needs: `used` is the resource name of a job, or of an artifact or checkpoint of it."""

    user: str
    used: str
    verb: str

    def text(self) -> str:
        """Say it in one line for people."""
        return f"{self.user} {self.verb} {self.used}; wait for it or cancel it"


def uses(connection: Connection) -> list[Use]:
    """Everything that live jobs and sweeps need of other jobs. Records that are damaged are passed over."""
    found = [use for row in jobs.in_states(connection, states.LIVE) if not row.damaged for use in _of_job(row)]
    for row in sweep_rows.in_states(connection, LIVE):
        sweep = sweep_pb2.Sweep.FromString(row.record)
        found += [Use(f"projects/{row.project}/sweeps/{row.uid}", t.job, "compares") for t in sweep.trials if t.job]
    return found


def in_use(connection: Connection, layout: Layout) -> set[Path]:
    """Folders of jobs and files of datasets that live jobs and sweeps need; for the former their own are among them."""
    live, datasets = jobs.in_states(connection, states.LIVE), schema.datasets.c
    names = {use.used.partition("/jobs/")[2].partition("/")[0] for use in uses(connection)}
    found = {layout.job(uid) for uid in names | {row.uid for row in live} if uid}
    wanted = {uid for row in live for uid in (row.dataset_uid, row.evaluation_uid) if uid}
    hashes = connection.execute(select(datasets.sha256).where(datasets.uid.in_(wanted))).scalars()
    return found | {layout.dataset_file(sha256) for sha256 in hashes}


def of_job(found: list[Use], name: str) -> list[Use]:
    """Those uses that need a job, or anything that it made."""
    return [use for use in found if use.used == name or use.used.startswith(f"{name}/")]


def require_unused(found: list[Use]) -> None:
    """Raise FailedPrecondition JOB_IN_USE, which names who uses it, unless there is nobody."""
    if found:
        violations = [(use.user, use.text(), "JOB_IN_USE") for use in found]
        metadata = {"users": ", ".join(dict.fromkeys(use.user for use in found))}
        raise FailedPrecondition("JOB_IN_USE", f"{found[0].text()}.", metadata=metadata, violations=violations)


def _of_job(row: jobs.JobRow) -> Iterator[Use]:
    record, snapshot = job_pb2.Job.FromString(row.record), job_pb2.Job.FromString(row.snapshot)
    verb = _VERBS.get(record.WhichOneof("task") or "", "uses")
    names = [parent.name for parent in record.lineage.parents]
    names += [_named(target.weights) for target in record.serve.targets]
    names += [_named(target.weights) for target in snapshot.serve.loaded]
    for name in dict.fromkeys(names):
        if name:
            yield Use(row.name, name, verb)


def _named(weights: weights_pb2.TrainedWeights) -> str:
    return weights.artifact or weights.checkpoint
