# SPDX-License-Identifier: Apache-2.0
"""`finetree jobs trace`: where a job's time went, for ui.perfetto.dev."""

import json
from collections import Counter
from pathlib import Path

import click

from finetree_cli.options.command import Command, Settings, pass_settings


@click.command(
    "trace",
    cls=Command,
    examples=(
        "finetree jobs trace JOB -o job.json",
        "finetree jobs trace JOB -o - | jq '[.traceEvents[] | select(.cat == \"gaps\")]'",
    ),
)
@click.argument("job")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="File to write, - for stdout. [default: the job's id, .trace.json]",
)
@pass_settings
def trace(settings: Settings, job: str, output: Path | None) -> None:
    """Write a job's event log as a trace that Perfetto (ui.perfetto.dev) and Chrome's chrome://tracing open.

    It has tracks for states with the time in the queue, attempts, phases, steps, evaluations, checkpoints, and gaps in
    which nothing was reported; alerts as instants; loss, tokens/s and memory as counters. A job that still runs is
    written as far as it is.
    """
    from finetree_cli.errors import BadInput

    with settings.client() as client:
        document = client.job(job).trace()
    name = document["otherData"]["job"]
    if output is not None and str(output) == "-":
        settings.out.line(document)
        return
    target = output or Path(f"{name.rpartition('/')[2]}.trace.json")
    try:
        target.write_text(json.dumps(document, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{target}: {error.strerror or error}", remedy="name a file that can be written") from error
    counted = Counter(entry["cat"] for entry in document["traceEvents"] if entry["ph"] == "X")
    if settings.out.json:
        settings.out.document({"path": str(target), "job": name, "spans": dict(sorted(counted.items()))})
        return
    settings.out.text(str(target))
    settings.out.say(", ".join(f"{count} {track}" for track, count in sorted(counted.items())))
    settings.out.say("open it at https://ui.perfetto.dev (it stays in your browser)")
