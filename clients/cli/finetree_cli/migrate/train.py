# SPDX-License-Identifier: Apache-2.0
"""Training the job files of a migration, one after the other, and collecting the answers of the tuned models."""

from typing import TYPE_CHECKING

from finetree_cli.data_check import check_uploads
from finetree_cli.errors import CliError
from finetree_cli.follow import follow
from finetree_cli.jobfile.error_positions import with_positions
from finetree_cli.jobfile.job import read_job
from finetree_cli.migrate.comparison import compare
from finetree_cli.migrate.plan import Planned
from finetree_cli.options.command import Settings
from finetree_cli.output import Output
from finetree_cli.uploads import upload_job_data

if TYPE_CHECKING:
    from finetree import Client, Job
    from finetree_api.trainer.v1 import event_pb2

    from finetree_cli.jobfile.job import JobFile


def train(settings: Settings, planned: list[Planned]) -> None:
    """Train every job that has a job file; one that fails is noted, and the next one is trained."""
    with settings.client() as client:
        for found in planned:
            if found.file is None:
                continue
            settings.out.say(f"training {found.file}")
            try:
                _train(settings, client, found)
            except CliError as error:
                found.refusal, found.reason = error.message, error.reason


def _train(settings: Settings, client: "Client", found: Planned) -> None:
    job = read_job(str(found.file))
    # The answer on stdout is the migration's alone.
    quiet = Settings(out=Output())
    uploaded = upload_job_data(quiet, client, job, {"dataset": None, "evaluation.dataset": None})
    check_uploads(quiet, client, job, uploaded)
    samples: list[event_pb2.Sample] = []

    def seen(event: "event_pb2.JobEvent") -> None:
        if event.HasField("sample"):
            samples.append(event.sample)

    handle = _create(quiet, client, job)
    found.name = handle.name
    settings.out.say(f"job {handle.name}")
    follow(quiet, handle, seen=seen)
    if found.records:
        found.comparison = compare(found.records, found.references, samples)


def _create(settings: Settings, client: "Client", job: "JobFile") -> "Job":
    """Create a job; a model that is not prepared is prepared first."""
    from finetree import FailedPrecondition

    with with_positions(job):
        try:
            return client.create_job(job.template)
        except FailedPrecondition as error:
            if error.reason != "MODEL_NOT_PREPARED":
                raise
    follow(settings, client.prepare(model=job.spec.model, display_name="prepare model"))
    with with_positions(job):
        return client.create_job(job.template)
