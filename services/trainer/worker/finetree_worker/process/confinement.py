# SPDX-License-Identifier: Apache-2.0
"""Confinement of this process: at its start, before a library is imported, and to the files of each task.

The first step is taken while the process has a single thread, so that it holds for all of it. What may be touched is
the service's to say (finetree_data.confinement.policy); the files of a task are known when the task comes.
"""

import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from finetree_api.worker.v1 import worker_pb2
from finetree_data.confinement.confine import Confinement, confine
from finetree_data.confinement.policy import Policy


def confine_process(environment: MutableMapping[str, str] = os.environ) -> Confinement | None:
    """Confine this process as its service has decided; None where it is not to be confined.

    Raises ConfinementError where it must be and cannot; the process has to end then.
    """
    policy = Policy.take(environment)
    return None if policy is None else confine(policy)


def confine_to_task(confinement: Confinement, task: worker_pb2.Task) -> None:
    """Confine what runs from now on to the files of a task. Raises OSError.

    A worker that may go on to another job keeps what any training of its service needs: the next job's folders are not
    there yet, and what is given up cannot be had back.
    """
    attempt = Path(task.folders.work_dir)
    job, jobs = attempt.parents[1], attempt.parents[2]
    policy, tokens = confinement.policy, task.folders.token_cache_dir
    others = [folder for folder in policy.write if Path(folder) != jobs]
    if task.may_rest:
        confinement.narrow(read=(*policy.read, *others), write=(str(jobs), *_given(tokens)), job=False)
    elif task.HasField("serve"):
        # Clients name further targets while it serves: adapters of other jobs, and of the model roots.
        confinement.narrow(read=(*policy.read, *policy.write), write=(str(job),), job=False)
    elif task.HasField("prepare"):
        confinement.narrow(read=(*policy.read, *_inputs(task)), write=(str(job), *others), job=True)
    else:
        confinement.narrow(read=_inputs(task), write=(str(job), *_given(tokens)), job=True)


def _inputs(task: worker_pb2.Task) -> list[str]:
    """Return the files and folders that a task reads, with what links in the folders lead to."""
    folders = [task.base.model_dir, *(weights.folder for weights in task.weights)]
    found = _given(*folders, task.dataset_file, task.evaluation_file)
    for folder in _given(*folders):
        found += _targets_of_links(Path(folder))
    return found


def _targets_of_links(folder: Path) -> Iterator[str]:
    """Yield what links in a folder of weights lead to: the service has checked that it is under a root."""
    if folder.is_dir():
        yield from (str(path.resolve()) for path in folder.rglob("*") if path.is_symlink())


def _given(*paths: str) -> list[str]:
    return [path for path in paths if path]
