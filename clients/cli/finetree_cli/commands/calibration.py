# SPDX-License-Identifier: Apache-2.0
"""`finetree calibration`: the estimator's corrections from observed runs."""

import click

from finetree_cli.options.command import Group, Settings, pass_settings


@click.group(cls=Group, examples=("finetree calibration show", "finetree calibration reset rtx-4090"))
def calibration() -> None:
    """Show or delete the estimator's calibration."""


@calibration.command(
    examples=(
        "finetree calibration show",
        "finetree calibration show rtx-4090 --points 10",
        "finetree calibration show --json | jq '.entries[].step_time_factor.expected'",
    )
)
@click.argument("device", default="")
@click.option("--points", type=click.IntRange(1, 1000), default=20, show_default=True, help="Newest runs to show.")
@pass_settings
def show(settings: Settings, device: str, points: int) -> None:
    """Show the factors that estimates are multiplied by, and the observed runs behind them, newest first.

    DEVICE is the name of an accelerator or a processor as this command lists it; without it, all devices are shown.
    """
    from finetree_cli.render.estimator.calibration import show_calibration

    with settings.client() as client:
        found = client.get_calibration(device, points=points)
    if settings.out.json:
        settings.out.message(found)
    else:
        show_calibration(settings.out, found)


@calibration.command(
    examples=("finetree calibration reset rtx-4090", "finetree calibration reset --all --json | jq .removed")
)
@click.argument("device", default="")
@click.option("--all", "everything", is_flag=True, help="Delete the observed runs of all devices.")
@pass_settings
def reset(settings: Settings, device: str, everything: bool) -> None:
    """Delete the observed runs of DEVICE; its estimates are then uncorrected.

    Give either a device or --all.
    """
    if bool(device) == everything:
        raise click.UsageError("give either a device or --all")
    with settings.client() as client:
        removed = client.reset_calibration(device)
    if settings.out.json:
        settings.out.document({"removed": removed})
    else:
        settings.out.text(f"{removed} observed {'run' if removed == 1 else 'runs'} deleted")
