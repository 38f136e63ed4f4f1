# SPDX-License-Identifier: Apache-2.0
"""`finetree methods`: the cards of the fine-tuning methods."""

import click

from finetree_cli.options.command import Command, Settings, pass_settings


@click.command(cls=Command, examples=("finetree methods", "finetree methods lora", "finetree methods --json"))
@click.argument("method", required=False, type=click.Choice(("full", "lora", "qlora", "prefix", "adapter")))
@click.option("--rule-pack", default="", metavar="NAME", help="Rule pack. [default: playbook-1]")
@pass_settings
def methods(settings: Settings, method: str | None, rule_pack: str) -> None:
    """Describe the five fine-tuning methods.

    METHOD shows one of them in detail. With --json, the list also has the rule pack's questionnaire, its hardware chart
    and its examples.
    """
    from finetree_api.types.v1 import method_pb2

    from finetree_cli.backends.recommender import open_recommender
    from finetree_cli.output import as_dict
    from finetree_cli.render.recommender.method_cards import show_card, show_methods

    rpc = "GetMethod" if method else "ListMethods"
    with settings.client() as client, open_recommender(settings, client, rpc) as recommender:
        if method:
            number = method_pb2.Method.Value(f"METHOD_{method.upper()}")
            cards, guide = [recommender.get_method(number, rule_pack=rule_pack)], None
        else:
            cards, guide = recommender.list_methods(rule_pack=rule_pack), recommender.method_guide(rule_pack=rule_pack)
    if settings.out.json:
        document = {"methods": [as_dict(card) for card in cards]}
        settings.out.document(document if guide is None else document | {"guide": as_dict(guide)})
    elif guide is None:
        show_card(settings.out, cards[0])
    else:
        show_methods(settings.out, cards, guide)
