# SPDX-License-Identifier: Apache-2.0
"""`finetree jobs export`: metrics of jobs as CSV and as TensorBoard's event files, also while they run."""

from pathlib import Path

import click

from finetree_cli.options.command import Command, Settings, pass_settings

FORMATS = ("csv", "tensorboard")


@click.command(
    "export",
    cls=Command,
    examples=(
        "finetree jobs export JOB --format csv --output ./metrics",
        "finetree jobs export JOB JOB --format tensorboard --output ./runs && tensorboard --logdir ./runs",
        "finetree jobs export JOB --format tensorboard --output ./runs --follow",
    ),
)
@click.argument("job_names", metavar="JOB...", nargs=-1, required=True)
@click.option("--format", "kind", type=click.Choice(FORMATS), default="csv", show_default=True, help="What is written.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    show_default="the current folder",
    help="Folder for the files; each job gets a folder of its own, named by its id.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended; of one job.")
@pass_settings
def export(settings: Settings, /, *, job_names: tuple[str, ...], kind: str, output: Path, follow: bool) -> None:
    """Write the metrics of jobs into files, from their logs.

    Metrics, that is; `finetree export` writes weights: merged, or as GGUF.

    Running it again goes on where the file ends, also after an interruption: no step is lost or written twice. Steps
    that a later attempt repeats come behind a row "attempt" in the table; TensorBoard shows the later ones.
    """
    from finetree_cli.errors import BadInput, StillRunning

    if follow and len(job_names) > 1:
        raise BadInput("--follow is for one job", remedy="run the command once for each job")
    found = []
    try:
        with settings.client() as client:
            for name in job_names:
                job = client.job(name)
                path = job.export_metrics(output, kind, follow=follow)  # type: ignore[arg-type]  # one of FORMATS
                found.append({"job": job.name, "path": str(path)})
                if not settings.out.json:
                    settings.out.text(str(path))
    except KeyboardInterrupt:
        remedy = "the same command goes on where the file ends"
        raise StillRunning("interrupted; the job still runs", remedy=remedy, reason="DETACHED") from None
    except OSError as error:
        raise BadInput(f"{output}: {error.strerror or error}", remedy="give a writable folder with --output") from error
    if settings.out.json:
        settings.out.document({"files": found})
