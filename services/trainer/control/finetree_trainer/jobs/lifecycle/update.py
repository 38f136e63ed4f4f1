# SPDX-License-Identifier: Apache-2.0
"""What UpdateJob changes of a job: its display name, labels and annotations, as far as the mask names them.

The mask is that of https://google.aip.dev/134, with keys of maps as in https://google.aip.dev/161.
"""

from collections.abc import Iterable, MutableMapping

from finetree_api.trainer.v1 import job_pb2, trainer_pb2
from finetree_runtime.errors import invalid_field

MAX_PAIRS = 64
"""Most labels of a job, and most annotations: as in JobTemplate."""


def apply(job: job_pb2.Job, request: trainer_pb2.UpdateJobRequest) -> bool:
    """Change a job as a request asks; return whether anything differs from before.

    Raises InvalidArgument INVALID_REQUEST; then nothing of the job may be kept.
    """
    before = job.SerializeToString(deterministic=True)
    paths = tuple(request.update_mask.paths) or _implied(request)
    if "display_name" in paths:
        job.display_name = request.display_name
    elif request.display_name:
        raise invalid_field("display_name", "is set, and update_mask does not name it")
    _change(job.labels, request.labels, paths=paths, field_path="labels")
    _change(job.annotations, request.annotations, paths=paths, field_path="annotations")
    return job.SerializeToString(deterministic=True) != before


def _implied(request: trainer_pb2.UpdateJobRequest) -> tuple[str, ...]:
    """The fields that a request sets."""
    maps = [name for name in ("labels", "annotations") if getattr(request, name)]
    return (*maps, "display_name") if request.HasField("display_name") else tuple(maps)


def _change(
    present: MutableMapping[str, str], given: MutableMapping[str, str], *, paths: Iterable[str], field_path: str
) -> None:
    named = [path for path in paths if path == field_path or path.startswith(f"{field_path}.")]
    if field_path in named:
        present.clear()
        present.update(given)
        return
    keys = {path.removeprefix(f"{field_path}.") for path in named}
    if unnamed := sorted(given.keys() - keys):
        raise invalid_field(f'{field_path}["{unnamed[0]}"]', "is set, and update_mask does not name it")
    for key in keys:
        if key in given:
            present[key] = given[key]
        else:
            present.pop(key, None)
    if len(present) > MAX_PAIRS:
        raise invalid_field(field_path, f"would have {len(present)} entries; a job has at most {MAX_PAIRS}")
