# SPDX-License-Identifier: Apache-2.0
"""`finetree database`: the database that the trainer keeps its jobs and events in."""

from pathlib import Path

import click

from finetree_cli.options.command import Group, Settings, pass_settings


@click.group(cls=Group, examples=("finetree database move --to postgresql --data-dir ./data",))
def database() -> None:
    """Move the trainer's database between its folder and a PostgreSQL server."""


@database.command(
    examples=(
        "finetree database move --to postgresql",
        "finetree database move --to embedded --data-dir ./data --json",
    )
)
@click.option(
    "--to",
    "target",
    type=click.Choice(["postgresql", "embedded"]),
    required=True,
    help="Where the database is to be: on the server that FINETREE_TRAINER_DATABASE_URL names, or in the folder.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Data folder of `finetree up`, or the --data-dir of a trainer. [default: that of `finetree up`]",
)
@pass_settings
def move(settings: Settings, /, *, target: str, data_dir: Path | None) -> None:
    """Carry all jobs, events and datasets of a stopped trainer over to an empty database, or back into its folder.

    All or nothing: every table is read back and compared, by count and hash, before anything changes for the trainer;
    a move that was cut off is run again. What was moved from stays: the file under another name, the tables on the
    server as they were. FINETREE_TRAINER_DATABASE_URL, or FINETREE_TRAINER_DATABASE_URL_FILE, names the database on the
    server, as for the trainer. Watchers go on from their cursors.
    """
    from finetree_cli.backends.data_folder import program
    from finetree_cli.backends.suite import default_data_dir
    from finetree_cli.render.transfer import transfer

    words = [target, str(data_dir or default_data_dir())]
    with transfer(settings.out, "moving") as on_progress:
        found = program.run("finetree_trainer.store.move", words, on_progress)
    if settings.out.json:
        settings.out.document(found)
        return
    rows = [(name, str(each["rows"]), each["sha256"][:16]) for name, each in found["tables"].items() if each["rows"]]
    settings.out.table(["Table", ">Rows", "SHA-256"], rows)
    settings.out.say(f"every table was read back and is the same; what was moved is now {found['kept']} in the folder")
    if target == "postgresql":
        settings.out.say(f"the database is {found['server']}: start the trainer with the same URL")
    else:
        settings.out.say(f"the database is in the folder: start the trainer without {found['server']}")
