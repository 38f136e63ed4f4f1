# SPDX-License-Identifier: Apache-2.0
"""`finetree jobs checkpoints`: the checkpoints of a job, from which a run can start: listed, kept, fetched, deleted."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetree_cli.options.command import Command, Settings, pass_settings
from finetree_cli.options.types import Duration

if TYPE_CHECKING:
    from finetree import Job

STEP = click.IntRange(0, 2**31 - 1)


@click.command(
    "checkpoints",
    cls=Command,
    examples=(
        "finetree jobs checkpoints JOB",
        "finetree jobs checkpoints JOB --pin 400 --delete 200",
        "finetree jobs checkpoints JOB --download 400 ./at-400",
        "finetree jobs checkpoints JOB --expire 400 7d",
        "finetree jobs checkpoints JOB --json | jq -r '.checkpoints[] | select(.best) | .name'",
    ),
)
@click.argument("job")
@click.option("--deleted", is_flag=True, help="Those too that rotation has deleted, or that are damaged.")
@click.option("--pin", "pins", type=STEP, multiple=True, metavar="STEP", help="Keep it whatever rotation says.")
@click.option("--unpin", "unpins", type=STEP, multiple=True, metavar="STEP", help="Leave it to rotation again.")
@click.option("--expire", type=(STEP, Duration()), metavar="STEP TIME", help="Delete it after this time, such as 7d.")
@click.option("--delete", "deletes", type=STEP, multiple=True, metavar="STEP", help="Delete it now.")
@click.option(
    "--download",
    type=(STEP, click.Path(file_okay=False, path_type=Path)),
    metavar="STEP DIR",
    help="Fetch its weights into a folder, as peft or transformers load them.",
)
@click.option("--with-state", is_flag=True, help="With --download: the optimizer's state too.")
@pass_settings
def checkpoints(
    settings: Settings,
    /,
    *,
    job: str,
    deleted: bool,
    pins: tuple[int, ...],
    unpins: tuple[int, ...],
    expire: tuple[int, float] | None,
    deletes: tuple[int, ...],
    download: tuple[int, Path] | None,
    with_state: bool,
) -> None:
    """List the checkpoints of a job that are on the disk and whole, by step, after what the options ask for.

    `finetree train job.yaml --init-from JOB@STEP` starts from one. Rotation deletes old ones while the job
    runs; `checkpoints` in its job file says how many are kept. Pinned ones stay until they are unpinned.
    """
    from finetree_cli.output import as_dict
    from finetree_cli.render import units
    from finetree_cli.render.lineage import show_checkpoints

    document: dict[str, Any] = {}
    with settings.client() as client:
        handle = client.job(job)
        for step in pins:
            handle.update_checkpoint(step, pinned=True)
        for step in unpins:
            handle.update_checkpoint(step, pinned=False)
        if expire is not None:
            handle.update_checkpoint(expire[0], time_to_live=expire[1])
        if download is not None:
            document["path"] = _fetch(settings, handle, *download, with_state=with_state)
        if deletes:
            document["freed_bytes"] = sum(handle.delete_checkpoint(step) for step in deletes)
        found = handle.checkpoints(show_deleted=deleted)
    if settings.out.json:
        settings.out.document({"checkpoints": [as_dict(each) for each in found]} | document)
        return
    if "path" in document:
        settings.out.text(document["path"])
        return
    if deletes:
        settings.out.say(f"{units.size(document['freed_bytes'])} are free")
    show_checkpoints(settings.out, found)


def _fetch(settings: Settings, job: "Job", step: int, folder: Path, *, with_state: bool) -> str:
    from finetree_cli.errors import BadInput
    from finetree_cli.render.transfer import transfer

    try:
        with transfer(settings.out, "downloading") as on_progress:
            return str(job.download_checkpoint(step, folder, include_state=with_state, on_progress=on_progress))
    except OSError as error:
        raise BadInput(f"{folder}: {error.strerror or error}", remedy="give a writable folder") from error
