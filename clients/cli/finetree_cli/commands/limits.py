# SPDX-License-Identifier: Apache-2.0
"""`finetree limits`: what a project and the caller use of their limits."""

from typing import TYPE_CHECKING

import click

from finetree_cli.options.command import Group, Settings, pass_settings

if TYPE_CHECKING:
    from finetree_api.trainer.v1 import limits_pb2

FEW = 2
"""Limits that need no table: those of a trainer without a limits file, bytes of a project and watches of a caller."""
BYTES = ("dataset_bytes", "upload_bytes_per_day")
"""Limits that count bytes."""


@click.group(cls=Group, examples=("finetree limits show", "finetree limits show --project search --json"))
def limits() -> None:
    """Show limits of projects and principals (`--limits-file` of the services)."""


@limits.command(
    examples=(
        "finetree limits show",
        "finetree limits show --project search",
        "finetree limits show --json | jq '.limits[] | select(.value) | {limit, used, value}'",
    )
)
@pass_settings
def show(settings: Settings) -> None:
    """Show what is used of which limit: of the project first, then of the caller in all projects together.

    Where nothing is limited beside what a trainer always limits, that is said in one sentence, and the table has what
    is used. --json has everything.
    """
    with settings.client() as client:
        found = client.get_limits()
    if settings.out.json:
        settings.out.message(found)
        return
    shown = list(found.limits)
    limited = [each for each in shown if each.HasField("value")]
    if len(limited) <= FEW:
        settings.out.text(_sentence(limited))
        shown = [each for each in shown if each.used and each not in limited]
    if shown:
        rows = [(each.subject, each.limit, _used(each), _value(each), _reset(each)) for each in shown]
        settings.out.table(["Of", "Limit", ">Used", ">Allowed", "Begins anew"], rows)
    for each in found.limits:
        if each.unpriced_jobs:
            text = f"{each.subject}: {each.unpriced_jobs} jobs of this month are not counted; their price is not known"
            settings.out.say(f"{text}, or is not in {each.currency_code}")


def _sentence(limited: "list[limits_pb2.LimitUsage]") -> str:
    """Say what is limited where that is nothing, or no more than a trainer limits without a limits file."""
    if not limited:
        return "nothing is limited"
    words = [f"{each.limit} of {each.subject}: {_used(each)} of {_value(each)}" for each in limited]
    return f"nothing is limited but {', and '.join(words)}"


def _used(each: "limits_pb2.LimitUsage") -> str:
    return "" if each.limit == "requests_per_second" else _figure(each, each.used)


def _value(each: "limits_pb2.LimitUsage") -> str:
    return _figure(each, each.value) if each.HasField("value") else "-"


def _figure(each: "limits_pb2.LimitUsage", figure: float) -> str:
    from finetree_cli.render import units

    if each.currency_code:
        return f"{figure:.2f} {each.currency_code}"
    return units.size(int(figure)) if each.limit in BYTES else f"{figure:g}"


def _reset(each: "limits_pb2.LimitUsage") -> str:
    return each.reset_time.ToJsonString() if each.HasField("reset_time") else ""
