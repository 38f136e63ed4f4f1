# SPDX-License-Identifier: Apache-2.0
"""`finetree targets`: list, load and remove trained weights on a served base model."""

import click

from finetree_cli.commands.serve import weights_of
from finetree_cli.options.command import Group, Settings, pass_settings
from finetree_cli.options.types import Target


@click.group(cls=Group, examples=("finetree targets list SERVING", "finetree targets load SERVING support=JOB"))
def targets() -> None:
    """See and change what a served base model has loaded."""


@targets.command("list", examples=("finetree targets list SERVING", "finetree targets list SERVING --json | jq .lease"))
@click.argument("serving")
@pass_settings
def list_targets(settings: Settings, serving: str) -> None:
    """List the targets of the job SERVING, and until when its lease lasts."""
    from finetree_cli.render.trainer.targets import show_targets

    with settings.client() as client:
        found = client.serving(serving).targets()
    if settings.out.json:
        settings.out.message(found)
    else:
        show_targets(settings.out, found)


@targets.command(
    examples=("finetree targets load SERVING support=JOB", "finetree targets load SERVING theirs=path:adapters/theirs")
)
@click.argument("serving")
@click.argument("target", type=Target(), metavar="NAME=JOB")
@pass_settings
def load(settings: Settings, serving: str, target: tuple[str, str]) -> None:
    """Load what JOB has trained under a NAME; also JOB@STEP, an artifact's name, or path:FOLDER under a model root."""
    name, text = target
    with settings.client() as client:
        loaded = client.serving(serving).load(name, weights_of(text))
    if settings.out.json:
        settings.out.message(loaded)
    else:
        settings.out.text(f"{loaded.name} is loaded")


@targets.command(examples=("finetree targets unload SERVING support",))
@click.argument("serving")
@click.argument("name")
@pass_settings
def unload(settings: Settings, serving: str, name: str) -> None:
    """Remove a target; answers that it is giving end."""
    with settings.client() as client:
        client.serving(serving).unload(name)
    if settings.out.json:
        settings.out.document({"unloaded": name})
    else:
        settings.out.text(f"{name} is removed")
