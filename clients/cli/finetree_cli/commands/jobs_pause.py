# SPDX-License-Identifier: Apache-2.0
"""`finetree jobs pause` and `finetree jobs resume`: a training gives its device back for a while."""

from typing import TYPE_CHECKING

import click

from finetree_cli.options.command import Command, Settings, pass_settings
from finetree_cli.options.types import Duration

if TYPE_CHECKING:
    from finetree import Job


@click.command(
    cls=Command,
    examples=("finetree jobs pause JOB --wait 2m", "finetree jobs pause JOB --keep-place --json | jq -r .state"),
)
@click.argument("job")
@click.option("--keep-place", is_flag=True, help="Wait at the old place when resumed, not behind all others.")
@click.option("--wait", type=Duration(), help="Wait up to this time until its checkpoint is saved and its device free.")
@pass_settings
def pause(settings: Settings, /, *, job: str, keep_place: bool, wait: float | None) -> None:
    """Pause a training: it saves a checkpoint, gives its device back and costs nothing until it is resumed.

    A job that waits is taken out of the queue. Resumed, it ends with the weights of a run that was never paused.
    """
    from finetree import FinetreeTimeout

    from finetree_cli.errors import StillRunning
    from finetree_cli.render.trainer.jobs import state_name

    with settings.client() as client:
        handle = client.job(job)
        found = handle.pause(keep_place=keep_place)
        if wait is not None and state_name(found.state) == "pausing":
            try:
                _wait_until_paused(handle, wait)
            except FinetreeTimeout as error:
                raise StillRunning("the job has not paused yet", reason="TIMED_OUT") from error
            found = handle.refresh()
    if settings.out.json:
        settings.out.message(found)
    else:
        settings.out.text("suspended" if found.suspended else state_name(found.state))


@click.command(
    cls=Command, examples=("finetree jobs resume JOB", "finetree jobs resume JOB --json | jq .queue_position")
)
@click.argument("job")
@pass_settings
def resume(settings: Settings, job: str) -> None:
    """Have a paused or suspended job wait for a device; a training goes on from its newest checkpoint."""
    from finetree_cli.render.trainer.jobs import show_place

    with settings.client() as client:
        found = client.job(job).resume()
    if settings.out.json:
        settings.out.message(found)
    else:
        show_place(settings.out, found)


def _wait_until_paused(handle: "Job", seconds: float) -> None:
    """Follow a job until it has left PAUSING. Raises FinetreeTimeout."""
    from finetree_api.trainer.v1 import job_pb2

    after = handle.snapshot.last_seq if handle.snapshot is not None else 0
    for event in handle.events(after_seq=after, kinds=("state_changed",), timeout=seconds):
        if event.state_changed.current != job_pb2.JOB_STATE_PAUSING:
            return
