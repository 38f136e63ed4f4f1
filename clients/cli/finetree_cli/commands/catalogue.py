# SPDX-License-Identifier: Apache-2.0
"""`finetree methods`, `gpus`, `capacity` and `models list --catalogue`: what there is."""

import click

from finetree_cli.options.command import Command, Settings, pass_settings


@click.command(cls=Command, examples=("finetree methods", "finetree methods lora", "finetree methods --json"))
@click.argument("method", required=False, type=click.Choice(("full", "lora", "qlora", "prefix", "adapter")))
@click.option("--policy", default="", metavar="NAME", help="Rule pack. [default: playbook-1]")
@pass_settings
def methods(settings: Settings, method: str | None, policy: str) -> None:
    """Describe the five methods, or one of them.

    With --json, the list also carries the questionnaire, the hardware chart, and the answers to typical situations.
    """
    from finetree_api.recommender.v1 import recommender_pb2

    from finetree_cli.backends.recommender import advisor
    from finetree_cli.output import as_dict
    from finetree_cli.render.recommender.method_cards import show_card, show_methods

    rpc = "GetMethod" if method else "ListMethods"
    with settings.client() as client, advisor(settings, client, local=False, method=rpc) as asked:
        if method:
            number = recommender_pb2.Method.Value(f"METHOD_{method.upper()}")
            cards, guide = [asked.method(number, policy)], None
        else:
            cards, guide = asked.methods(policy)
    if settings.out.json:
        document = {"methods": [as_dict(card) for card in cards]}
        settings.out.document(document if guide is None else document | {"guide": as_dict(guide)})
    elif guide is None:
        show_card(settings.out, cards[0])
    else:
        show_methods(settings.out, cards, guide)


def list_catalogue(settings: Settings, prefix: str) -> None:
    """List the models of the catalogue whose name, hub id or family begins with the prefix."""
    from finetree_cli.backends.estimator import engine
    from finetree_cli.output import as_dict
    from finetree_cli.render.estimator.catalogue import show_models

    with engine(settings, "ListModels", local=False) as asked:
        found = list(asked.list_models(prefix))
    if settings.out.json:
        settings.out.document({"models": [as_dict(item) for item in found]})
    else:
        show_models(settings.out, found)


@click.command(cls=Command, examples=("finetree gpus", "finetree gpus rtx", "finetree gpus --json"))
@click.argument("prefix", default="")
@pass_settings
def gpus(settings: Settings, prefix: str) -> None:
    """List the GPUs of the catalogue whose name begins with PREFIX."""
    from finetree_cli.backends.estimator import engine
    from finetree_cli.output import as_dict
    from finetree_cli.render.estimator.catalogue import show_accelerators

    with engine(settings, "ListAccelerators", local=False) as asked:
        found = list(asked.list_accelerators(prefix))
    if settings.out.json:
        settings.out.document({"accelerators": [as_dict(item) for item in found]})
    else:
        show_accelerators(settings.out, found)


@click.command(cls=Command, examples=("finetree capacity", "finetree capacity --json | jq .host_bf16_flops_per_second"))
@pass_settings
def capacity(settings: Settings) -> None:
    """Show what the trainer can run and what runs now."""
    from finetree_cli.render.estimator.catalogue import show_capacity

    with settings.client() as client:
        found = client.capacity()
    if settings.out.json:
        settings.out.message(found)
    else:
        show_capacity(settings.out, found)
