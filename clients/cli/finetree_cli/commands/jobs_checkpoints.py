# SPDX-License-Identifier: Apache-2.0
"""`finetree jobs checkpoints`: the checkpoints of a job, from which a run can start."""

import click

from finetree_cli.options.command import Command, Settings, pass_settings


@click.command(
    "checkpoints",
    cls=Command,
    examples=(
        "finetree jobs checkpoints JOB",
        "finetree jobs checkpoints JOB --deleted",
        "finetree jobs checkpoints JOB --json | jq -r '.checkpoints[] | select(.best) | .name'",
    ),
)
@click.argument("job")
@click.option("--deleted", is_flag=True, help="Those too that rotation has deleted, or that are damaged.")
@pass_settings
def checkpoints(settings: Settings, /, *, job: str, deleted: bool) -> None:
    """List the checkpoints of a job that are on the disk and whole, by step.

    `finetree train job.yaml --init-from JOB@STEP` starts from one. Rotation deletes old ones while the job
    runs; `checkpoints` in its job file says how many are kept.
    """
    from finetree_cli.output import as_dict
    from finetree_cli.render.lineage import show_checkpoints

    with settings.client() as client:
        found = client.job(job).checkpoints(show_deleted=deleted)
    if settings.out.json:
        settings.out.document({"checkpoints": [as_dict(each) for each in found]})
    else:
        show_checkpoints(settings.out, found)
