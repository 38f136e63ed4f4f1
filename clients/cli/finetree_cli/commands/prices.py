# SPDX-License-Identifier: Apache-2.0
"""`finetree prices`: the quotes of the estimator's price book."""

import click

from finetree_cli.options.command import Group, Settings, pass_settings

TERMS = ("on-demand", "spot", "reserved")


@click.group(cls=Group, examples=("finetree prices list", "finetree prices list --gpu rtx-4090 --term spot"))
def prices() -> None:
    """List the GPU prices that cost estimates use."""


@prices.command(
    "list",
    examples=(
        "finetree prices list --gpu a100-80gb",
        "finetree prices list --provider vast --json | jq '.prices[].hourly_price'",
    ),
)
@click.option("--gpu", default="", metavar="NAME", help="Only of this GPU.")
@click.option("--provider", default="", metavar="NAME", help="Only of this provider.")
@click.option("--term", type=click.Choice(TERMS), help="Only of this term.")
@pass_settings
def list_prices(settings: Settings, gpu: str, provider: str, term: str | None) -> None:
    """List prices by GPU, cheapest first, each with its provider and date."""
    from finetree_cli.backends.estimator import open_estimator
    from finetree_cli.output import as_dict
    from finetree_cli.render.estimator.catalog import show_prices

    number = term.replace("-", "_") if term else 0
    with open_estimator(settings, "ListPrices") as estimator:
        found = list(estimator.list_prices(gpu, provider=provider, term=number))
    if settings.out.json:
        settings.out.document({"prices": [as_dict(item) for item in found]})
    else:
        show_prices(settings.out, found)
