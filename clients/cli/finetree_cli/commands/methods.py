# SPDX-License-Identifier: Apache-2.0
"""`finetree methods`: the fine-tuning methods, one screen a subject."""

import click

from finetree_cli.errors import BadInput
from finetree_cli.options.command import Command, Settings, pass_settings
from finetree_cli.options.types import METHODS

TOPICS = ("situations", "scenarios", "quick-reference", "badges", "hardware", "costs", "ranks", "bits", "plot")
"""Pages beside the overview; a test compares them with those that are written."""


@click.command(
    cls=Command,
    examples=(
        "finetree methods",
        "finetree methods lora",
        "finetree methods lora --full",
        "finetree methods scenarios",
        "finetree methods quick-reference",
        "finetree methods badges",
        "finetree methods ranks",
        "finetree methods bits",
        "finetree methods --json | jq '.methods[].title'",
    ),
)
@click.argument("subject", required=False, metavar="[METHOD|TOPIC]", type=click.Choice((*METHODS, *TOPICS)))
@click.option("--full", "in_full", is_flag=True, help="With METHOD: also sources, results of others, and choices.")
@click.option("--rule-pack", default="", metavar="NAME", help="Rule pack. [default: playbook-1]")
@pass_settings
def methods(settings: Settings, subject: str | None, in_full: bool, rule_pack: str) -> None:
    """Describe the five fine-tuning methods, one screen at a time.

    Without a name, all five side by side. METHOD is full, lora, qlora, prefix or adapter. TOPIC is situations (the
    method for typical ones), scenarios (worked examples), quick-reference, badges (what the labels mean), hardware (the
    method for each GPU), costs (time and cost by number of rows), ranks (of LoRA), bits (of QLoRA) or plot (quality
    against resources). With --json, the cards and, without METHOD, the whole guide of the rule pack.
    """
    from finetree_api.types.v1 import method_pb2

    from finetree_cli.backends.recommender import open_recommender
    from finetree_cli.output import as_dict

    chosen = subject if subject in METHODS else None
    if in_full and chosen is None:
        raise BadInput("--full needs a method", remedy=f"name one: {', '.join(METHODS)}")
    with settings.client() as client, open_recommender(settings, client, "ListMethods") as recommender:
        cards, guide = recommender.list_methods(rule_pack=rule_pack), recommender.method_guide(rule_pack=rule_pack)
    if chosen is not None:
        number = method_pb2.Method.Value(f"METHOD_{chosen.upper()}")
        cards = [card for card in cards if card.method == number]
    if settings.out.json:
        document = {"methods": [as_dict(card) for card in cards]}
        settings.out.document(document if chosen is not None else document | {"guide": as_dict(guide)})
    elif in_full:
        from finetree_cli.render.recommender.method_cards import show_card as show_all

        show_all(settings.out, cards[0])
    elif chosen is not None:
        from finetree_cli.render.recommender.method_pages import show_card

        show_card(settings.out, cards[0], guide)
    else:
        from finetree_cli.render.recommender.method_pages import show_page

        show_page(settings.out, subject or "overview", cards, guide)
