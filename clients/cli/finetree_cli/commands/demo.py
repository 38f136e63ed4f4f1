# SPDX-License-Identifier: Apache-2.0
"""`finetree demo`: the whole suite on real data, from the question to the trained adapter."""

from pathlib import Path

import click

from finetree_cli.options.command import Command, Settings, pass_settings


@click.command(cls=Command, examples=("finetree demo", "finetree demo --countries 60 --json | jq .accuracy_after"))
@click.option(
    "--countries", type=click.IntRange(1, 249), help="How much data. [default: 60 or more, by the machine's speed]"
)
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Where jobs and data are kept.")
@pass_settings
def demo(settings: Settings, countries: int | None, data_dir: Path | None) -> None:
    """Show the suite at work: recommend, estimate, train, measure.

    Starts the three services on this machine, teaches SmolLM2-135M-Instruct country codes with the method and recipe
    that the recommender chooses for this machine, and asks it before and after in words that training never shows.
    With --json, stdout has one object: method, estimate, actual, first_loss, final_loss, accuracy_before,
    accuracy_after, events, artifacts, spec, recommended_spec, machine.
    """
    from finetree_cli.demo.stages import run

    run(settings, countries, data_dir)
