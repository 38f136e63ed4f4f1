# SPDX-License-Identifier: Apache-2.0
"""From a job file and flags to a question of the estimator, without asking another service for anything."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetree_cli.errors import BadInput
from finetree_cli.options.program import say_program
from finetree_cli.options.spec import ownership

if TYPE_CHECKING:
    from finetree_api.estimator.v1 import estimator_pb2

    from finetree_cli.jobfile.job import JobFile
    from finetree_cli.output import Output


def run_of(job: "JobFile", out: "Output", flags: dict[str, Any]) -> "estimator_pb2.EstimateRunRequest":
    """The run of a job file on the hardware, with the data and on the terms that the flags name."""
    from finetree_api.estimator.v1 import estimator_pb2

    request = estimator_pb2.EstimateRunRequest(spec=job.request.spec, runs_per_month=flags["runs_per_month"] or 0.0)
    if flags["accelerator"]:
        request.spec.hardware.accelerator = flags["accelerator"]
    if flags["count"]:
        request.spec.hardware.count = flags["count"]
    owner = ownership(flags["price"], flags["tariff"], flags["watts"], flags["currency"])
    if owner is not None:
        request.spec.ownership.CopyFrom(owner)
    if flags["examples"] is not None:
        profile = request.dataset_profile
        profile.examples, profile.total_tokens = flags["examples"], flags["tokens"]
        profile.target_fraction = flags["target_fraction"]
    else:
        _count_local_data(job, out, request)
    say_program(request, flags)
    return request


def _count_local_data(job: "JobFile", out: "Output", request: "estimator_pb2.EstimateRunRequest") -> None:
    """Rows of the files that the job names and that lie beside it. What a row holds in tokens is not guessed."""
    targets = {"dataset": request.dataset_profile, "evaluation.dataset": request.evaluation_profile}
    for item in job.local_data():
        rows = _rows(item.path)
        if rows:
            targets[item.field_path].examples = rows
            out.say(f"{item.path}: {rows} rows")


def _rows(path: Path) -> int:
    try:
        with path.open("rb") as stream:
            return sum(1 for line in stream if line.strip())
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}", reason="DATA_FILE_UNREADABLE") from error
