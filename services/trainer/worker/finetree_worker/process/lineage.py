# SPDX-License-Identifier: Apache-2.0
"""The lineage of a task's artifacts: what the service knows of it, and what only the worker sees."""

from contextlib import suppress
from pathlib import Path

from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import training_data_pb2
from finetree_api.worker.v1 import worker_pb2

from finetree_worker.atomic_files import hash_of
from finetree_worker.versions import library_versions


def of_task(task: worker_pb2.Task) -> artifact_pb2.Lineage:
    """Return the lineage of a task, with the versions of libraries and the hashes of files that are named by path.

    Uploaded files are kept under their hash, so they are not read again.
    """
    found = artifact_pb2.Lineage()
    found.CopyFrom(task.lineage)
    for name, version in library_versions().items():
        found.versions[name] = version
    files = {
        training_data_pb2.SPLIT_TRAIN: task.dataset_file,
        training_data_pb2.SPLIT_EVALUATION: task.evaluation_file,
    }
    for dataset in found.datasets:
        if not dataset.sha256 and files.get(dataset.split):
            # Whoever reads the rows reports a file that is gone.
            with suppress(OSError):
                dataset.sha256 = hash_of(Path(files[dataset.split]))
    return found
