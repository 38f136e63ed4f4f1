# SPDX-License-Identifier: Apache-2.0
"""The lineage of a task: what the service knows, what only the worker sees, and that its rows are those it names."""

from contextlib import suppress
from pathlib import Path

from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import training_data_pb2
from finetree_api.worker.v1 import worker_pb2

from finetree_worker.atomic_files import hash_of
from finetree_worker.errors import DamagedDataError
from finetree_worker.versions import library_versions


def of_task(task: worker_pb2.Task) -> artifact_pb2.Lineage:
    """Return the lineage of a task, with the versions of libraries and the hashes of files that are named by path.

    Those of uploaded files are the service's; `require_rows` has compared them with the files.
    """
    found = artifact_pb2.Lineage()
    found.CopyFrom(task.lineage)
    for name, version in library_versions().items():
        found.versions[name] = version
    files = _files(task)
    for dataset in found.datasets:
        if not dataset.sha256 and files.get(dataset.split):
            # Whoever reads the rows reports a file that is gone.
            with suppress(OSError):
                dataset.sha256 = hash_of(Path(files[dataset.split]))
    return found


def require_rows(task: worker_pb2.Task) -> None:
    """Raise DamagedDataError DATASET_DAMAGED where an uploaded file no longer has the content that was uploaded.

    A disk returns a flipped bit without an error, and a damaged row is often one that can be read.
    """
    files = _files(task)
    for dataset in task.lineage.datasets:
        file = files.get(dataset.split)
        if not dataset.sha256 or not file:
            continue
        with suppress(FileNotFoundError):  # whoever reads the rows reports a file that is gone
            if hash_of(Path(file)) != dataset.sha256:
                raise DamagedDataError(
                    "DATASET_DAMAGED",
                    f"The file of {dataset.name} is damaged on the trainer's disk.",
                    remedy="Delete the dataset, upload it again, and create the job anew.",
                )


def _files(task: worker_pb2.Task) -> dict[int, str]:
    return {
        training_data_pb2.SPLIT_TRAIN: task.dataset_file,
        training_data_pb2.SPLIT_EVALUATION: task.evaluation_file,
    }
