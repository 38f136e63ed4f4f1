# SPDX-License-Identifier: Apache-2.0
"""Upload local data files, those of flags and those that a job file names."""

from pathlib import Path
from typing import TYPE_CHECKING

from finetree_cli.errors import BadInput
from finetree_cli.options.local_rows import require_file
from finetree_cli.render.transfer import transfer

if TYPE_CHECKING:
    from finetree import Client
    from finetree_api.trainer.v1 import dataset_pb2
    from finetree_api.types.v1 import training_data_pb2

    from finetree_cli.jobfile.job import JobFile
    from finetree_cli.options.command import Settings


def upload(
    settings: "Settings", client: "Client", path: Path, reading: "training_data_pb2.DatasetReading | None" = None
) -> "dataset_pb2.Dataset":
    """Upload a file and return its dataset; the same content gives the same dataset.

    What `reading` accepts is a job's, and not kept with the dataset.

    Raises:
        BadInput: The file cannot be read.
    """
    require_file(path)
    try:
        stated = type(reading)() if reading is not None else None
        if reading is not None and stated is not None:
            stated.CopyFrom(reading)
            del stated.accepted_findings[:]
        with transfer(settings.out, f"uploading {path.name}") as on_progress:
            return client.upload_dataset(path, display_name=path.name, reading=stated, on_progress=on_progress)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}", reason="DATA_FILE_UNREADABLE") from error


def upload_job_data(
    settings: "Settings", client: "Client", job: "JobFile", flags: dict[str, Path | None]
) -> "dict[str, dataset_pb2.Dataset]":
    """Upload a job's local files, put their datasets' names into its spec, and return the datasets by field path.

    `flags` has a file by field path ("dataset", "evaluation.dataset") that replaces the job file's.
    """
    named = {item.field_path: item.path for item in job.local_data()}
    uploaded = {}
    for field_path, flag in flags.items():
        path = flag or named.get(field_path)
        if path is None:
            continue
        source = job.spec.evaluation.dataset if "." in field_path else job.spec.dataset
        reading = source.reading if source.HasField("reading") else None
        dataset = uploaded[field_path] = upload(settings, client, path, reading)
        source.name = dataset.name
        settings.out.say(f"{path} is dataset {dataset.name}")
    return uploaded
