# SPDX-License-Identifier: Apache-2.0
"""Names in requests → ids of what they name: a job, a sweep or a dataset is found in the project of its name alone.

A name with another project is answered like one that nothing has, so that nobody can find out what other projects hold.
"""

from dataclasses import dataclass

from finetree_runtime.errors import invalid_field
from finetree_runtime.ids import ResourceName, parse_child, parse_name
from finetree_runtime.server import context

from finetree_trainer.datasets.datasets import dataset_not_found
from finetree_trainer.jobs.retention.deletion import gone
from finetree_trainer.jobs.sweeps import rows
from finetree_trainer.jobs.sweeps.sweeps import sweep_not_found
from finetree_trainer.store import datasets, jobs
from finetree_trainer.store.database import Store

LONGEST_STEP = 9
"""Digits of the largest step: it is an int32."""


@dataclass(frozen=True, slots=True)
class Names:
    """Looks up what requests name; a short id belongs to the caller's project."""

    store: Store

    async def job(self, text: str, field_path: str = "name") -> ResourceName:
        """Return the name of a job. Raises InvalidArgument INVALID_NAME, NotFound (JOB_NOT_FOUND, JOB_EXPIRED)."""
        return await self._owned_job(parse_name(text, "jobs", field_path=field_path, project=_own_project()))

    async def artifact(self, text: str) -> tuple[ResourceName, str]:
        """Return the name of a job and the id of its artifact. Raises as `job` does."""
        name, artifact = parse_child(text, "jobs", "artifacts", project=_own_project())
        return await self._owned_job(name), artifact

    async def checkpoint(self, text: str) -> tuple[ResourceName, int]:
        """Return the name of a job and the step of its checkpoint. Raises as `job` does."""
        name, step = parse_child(text, "jobs", "checkpoints", project=_own_project())
        if not step.isdecimal() or len(step) > LONGEST_STEP:
            wanted = 'must end in a step, such as "projects/{project}/jobs/{job}/checkpoints/100"'
            raise invalid_field("name", wanted, "INVALID_NAME")
        return await self._owned_job(name), int(step)

    async def dataset(self, text: str, field_path: str = "name") -> ResourceName:
        """Return the name of a dataset. Raises InvalidArgument INVALID_NAME, NotFound DATASET_NOT_FOUND."""
        name = parse_name(text, "datasets", field_path=field_path, project=_own_project())
        if await self.store.read(lambda connection: datasets.project_of(connection, name.id)) != name.project:
            raise dataset_not_found(name.id)
        return name

    async def sweep(self, text: str) -> ResourceName:
        """Return the name of a sweep. Raises InvalidArgument INVALID_NAME, NotFound SWEEP_NOT_FOUND."""
        name = parse_name(text, "sweeps", project=_own_project())
        if await self.store.read(lambda connection: rows.project_of(connection, name.id)) != name.project:
            raise sweep_not_found(name.id)
        return name

    async def _owned_job(self, name: ResourceName) -> ResourceName:
        if await self.store.read(lambda connection: jobs.project_of(connection, name.id)) != name.project:
            raise await self.store.read(lambda connection: gone(connection, name))
        return name


def _own_project() -> str:
    return context.principal().project
