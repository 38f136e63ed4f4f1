# SPDX-License-Identifier: Apache-2.0
"""`finetree demo`: recommend, estimate and train on real data, with all services on this machine."""

from pathlib import Path

import click

from finetree_cli.options.command import Command, Settings, pass_settings


@click.command(
    cls=Command,
    examples=("finetree demo", "finetree demo --verbose", "finetree demo --countries 60 --json | jq .accuracy_after"),
)
@click.option(
    "--countries",
    type=click.IntRange(1, 249),
    help="Size of the dataset. [default: 60 or more, by the machine's speed]",
)
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder for jobs and data.")
@click.option("--verbose", is_flag=True, help="Show all five methods, and every value of the recipe with its reason.")
@pass_settings
def demo(settings: Settings, /, *, countries: int | None, data_dir: Path | None, verbose: bool) -> None:
    """Run the whole suite on a small task.

    Starts the three services on this machine, trains SmolLM2-135M-Instruct on country codes with the recommended method
    and recipe, and evaluates it before and after on held-out questions. With --json, stdout has one object: method,
    estimate, actual, first_loss, final_loss, accuracy_before, accuracy_after, events, artifacts, spec,
    recommended_spec, machine.
    """
    from finetree_cli.demo.stages import run

    run(settings, countries, data_dir, verbose=verbose)
