# SPDX-License-Identifier: Apache-2.0
"""`finetree migrate`: fine-tuning jobs of another service as job files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetree_cli.errors import BadInput, JobFailed
from finetree_cli.options.command import Group, Settings, pass_settings, take_flags
from finetree_cli.options.spec import HardwareFlags, hardware, hardware_options

if TYPE_CHECKING:
    from finetree import Client

    from finetree_cli.options.spec import Machine

REPORT = "report.json"
"""Name of the report in the output."""


def _machine(flags: HardwareFlags, client: "Client", *, train: bool) -> "Machine":
    """Return the hardware that recipes are for. Raises BadInput where nothing says which."""
    found = hardware(replace(flags, this_machine=True) if train and flags == HardwareFlags() else flags, client)
    if found is None:
        remedy = "--gpu NAME, --gpu-memory GB, --cpu --memory-gb GB, or --this-machine for the trainer's"
        raise BadInput("say what is to be trained on: a recipe depends on it", remedy=remedy)
    return found


@click.group(
    cls=Group,
    examples=(
        "finetree migrate openai export/ --gpu rtx-4090",
        "finetree migrate openai export/ --gpu rtx-4090 --train",
    ),
)
def migrate() -> None:
    """Turn fine-tuning jobs of another service into job files."""


@migrate.command(
    examples=(
        "finetree migrate openai export/ --output migrated --gpu rtx-4090",
        "finetree migrate openai export/ --model qwen3-8b --gpu rtx-4090",
        "finetree migrate openai train.jsonl --model smollm2-135m-instruct --this-machine --train",
        "finetree migrate openai export/ --gpu l4 --json | jq '.jobs[] | {file, model, refusal}'",
    )
)
@click.argument("export", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("migrated"),
    show_default=True,
    metavar="FOLDER",
    help="Where job files, converted rows and the report go.",
)
@click.option("--model", default="", metavar="NAME", help="Base model of every job. [default: by the tier of OpenAI's]")
@hardware_options
@click.option("--accept", "accepted", multiple=True, metavar="CODE", help="Accept a finding, such as UNREAD_COLUMNS.")
@click.option("--apply-multiplier", is_flag=True, help="Multiply the recipe's learning rate by the job's multiplier.")
@click.option(
    "--samples",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="Most recorded questions of a job that are asked again.",
)
@click.option("--train", is_flag=True, help="Train the job files one after the other, and compare the answers.")
@click.option("--local", is_flag=True, help="Ask no server for a recipe, even if an address is given.")
@pass_settings
def openai(
    settings: Settings,
    /,
    *,
    export: Path,
    output: Path,
    model: str,
    accepted: tuple[str, ...],
    apply_multiplier: bool,
    samples: int,
    train: bool,
    local: bool,
    **flags: Any,
) -> None:
    """Turn an export of OpenAI fine-tuning into job files: one for each job, with its rows.

    EXPORT is a folder with the JSON of fine_tuning.jobs (list or retrieve), training files named by their id
    (file-….jsonl), and, if there are any, recorded answers of the tuned models: stored chat completions with their
    messages, output items of evaluation runs, or batch files. Or it is one of these files.

    Rows are converted where they differ and checked as `finetree data check` does; images, audio and preference pairs
    are refused by line. The base model is chosen by the tier of OpenAI's unless --model names one; the method by the
    recommender, for the hardware that --gpu and the like say, with --train for the trainer's machine. Epochs, batch
    size, seed, name and metadata are the job's.

    With --train the recorded questions are asked again, before and after training, and the report shows the old answers
    beside the new ones. Exits with 2 if a job was refused, with 4 if a training failed; the others are migrated.
    """
    from finetree_cli.backends.recommender import open_recommender
    from finetree_cli.migrate import plan, report
    from finetree_cli.migrate.export import read_export

    found = read_export(export)
    output.mkdir(parents=True, exist_ok=True)
    with settings.client() as client, open_recommender(settings, client, "Recommend", local=local) as recommender:
        wishes = plan.Wishes(
            output=output,
            model=model,
            accepted=accepted,
            samples=samples,
            multiplier=apply_multiplier,
            machine=_machine(take_flags(HardwareFlags, flags), client, train=train),
        )
        planned = plan.plan(settings, recommender, found, wishes)
    refused = [each for each in planned if each.refusal]
    if train:
        from finetree_cli.migrate.train import train as train_all

        train_all(settings, planned)
    document = {"export": str(export), "output": str(output), "jobs": [plan.document(each) for each in planned]}
    (output / REPORT).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if settings.out.json:
        settings.out.document(document)
    else:
        report.show(settings.out, planned)
        for step in report.next_steps(planned):
            settings.out.say(step)
    failed = [each for each in planned if each.refusal and each not in refused]
    if failed:
        raise JobFailed(
            f"{len(failed)} of {len(planned)} jobs failed", reason=failed[0].reason, reported=settings.out.json
        )
    if refused:
        text = f"{len(refused)} of {len(planned)} jobs cannot be migrated as they are; the report says why"
        raise BadInput(text, reason=refused[0].reason)
