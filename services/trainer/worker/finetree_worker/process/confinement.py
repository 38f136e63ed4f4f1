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

from finetree_worker.errors import AccessError


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


def require_readable(task: worker_pb2.Task) -> None:
    """Raise AccessError INPUT_NOT_READABLE where the files of a task are closed to the user of this process.

    The service may be another user, who has read them before. What is missing is for those to report who need it.
    """
    weights = ((f"the weights {each.name!r}", "", each.folder) for each in task.weights)
    given = [("the base model", "model", task.base.model_dir), *weights]
    given += [("the dataset", "dataset", task.dataset_file), ("the evaluation dataset", "", task.evaluation_file)]
    for what, field, place in given:
        closed = _first_closed(Path(place)) if place else None
        if closed is not None:
            user = f"user {os.getuid()}, whom workers run as"
            raise AccessError(
                "INPUT_NOT_READABLE",
                f"{closed.name!r} of {what} cannot be read by {user}.",
                field=field,
                remedy="Let that user read the files and pass through their folders, or start the trainer with another "
                "--worker-user.",
            )


def _first_closed(path: Path) -> Path | None:
    """Return the first file or folder at or below a path that this user cannot read; None where there is none."""
    try:
        is_folder = path.is_dir()
        if not os.access(path, os.R_OK | (os.X_OK if is_folder else 0)):
            return path if os.path.lexists(path) else None
        below = sorted(path.iterdir()) if is_folder else []
    except PermissionError:
        return path
    except OSError:
        return None
    return next((found for found in map(_first_closed, below) if found is not None), None)


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
