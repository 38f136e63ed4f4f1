# SPDX-License-Identifier: Apache-2.0
"""`finetree capacity`: the trainer's devices and queue."""

import click

from finetree_cli.options.command import Command, Settings, pass_settings


@click.command(cls=Command, examples=("finetree capacity", "finetree capacity --json | jq .host_bf16_flops_per_second"))
@pass_settings
def capacity(settings: Settings) -> None:
    """Show the trainer's devices and queue."""
    from finetree_cli.render.trainer.capacity import show_capacity

    with settings.client() as client:
        found = client.capacity()
    if settings.out.json:
        settings.out.message(found)
    else:
        show_capacity(settings.out, found)
