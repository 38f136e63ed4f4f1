# SPDX-License-Identifier: Apache-2.0
"""The pages of `finetree methods`, of the packs that are served."""

import pytest
from finetree_cli.commands import methods
from finetree_cli.output import Output
from finetree_cli.render.recommender.method_pages import PAGES, show_card, show_page
from finetree_recommender.messages.method_cards import cards, guide
from finetree_recommender.method import Method
from finetree_recommender.rule_pack.pack import builtin_packs

PACKS = {name: (cards(pack, Method), guide(pack)) for name, pack in builtin_packs().items()}


def page(capsys, name: str, pack: str = "playbook-1") -> str:
    show_page(Output(), name, *PACKS[pack])
    return capsys.readouterr().out


@pytest.mark.parametrize("pack", PACKS)
@pytest.mark.parametrize("width", [80, 100, 120])
def test_every_page_and_card_is_one_screen(capsys, monkeypatch, width, pack):
    monkeypatch.setattr("finetree_cli.output.PIPE_WIDTH", width)
    shown = {name: page(capsys, name, pack) for name in PAGES}
    for card in PACKS[pack][0]:
        show_card(Output(), card, PACKS[pack][1])
        shown[card.title] = capsys.readouterr().out
    lines = {name: text.splitlines() for name, text in shown.items()}
    assert {name: len(text) for name, text in lines.items() if len(text) > 24} == {}
    assert max(len(line) for text in lines.values() for line in text) <= min(width, 100)
    assert all(line == line.rstrip() for text in lines.values() for line in text)


def test_the_command_names_every_page():
    assert ("overview", *methods.TOPICS) == tuple(PAGES)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("overview", ("Most popular: LoRA (80 % of users)", "full, lora, qlora, prefix, adapter", "quick-reference")),
        ("situations", ("A first fine-tune", "proven and widely used")),
        ("scenarios", ("A startup's support bot: LoRA", "about 50 USD and 3 to 4 hours", "takes 5.3 hours")),
        ("quick-reference", ("rank 8, alpha 16, dropout 0.1", "4-bit base")),
        ("badges", ("most popular", "the largest share of users")),
        ("hardware", ("A100 80 GB", "$2,000+", "not recommended")),
        ("costs", ("45 min, $0.30", "$0.27 for prefix tuning", "30 days, $1,800")),
        ("ranks", ("8 *", "most first runs")),
        ("bits", ("nf4 *", "90 to 92 % quality; a GPU of 24 GB")),
        (
            "plot",
            (
                "\N{FULL BLOCK}" * 35,
                "Slow   Medium   Fast   Fastest",
                "35, 24, 18, 12, 18",
                "very efficient",
                "Fastest  -> speed",
                "Upward: quality",
                "over efficiency",
            ),
        ),
    ],
)
def test_a_page_has_the_packs_facts(capsys, name, facts):
    shown = page(capsys, name)
    assert [fact for fact in facts if fact not in " ".join(shown.split()) and fact not in shown] == []


def test_figures_of_other_models_are_not_said_to_be_of_7b(capsys):
    assert "against full fine-tuning, for a 7B model; " in page(capsys, "overview")
    show_page(Output(), "overview", *PACKS["evidence-1"])
    assert "as --full of each says of which model" in " ".join(capsys.readouterr().out.split())


def test_a_card_has_the_price_that_its_source_prints(capsys):
    listed, found = PACKS["playbook-1"]
    show_card(Output(), next(card for card in listed if card.title == "Prefix tuning"), found)
    out = capsys.readouterr().out
    assert "1,000 rows 45 min, $0.30" in " ".join(out.split())
    assert "$0.27 for 1,000 rows" in out
    assert "learning rate   5e-3: Prefixes need a high rate." in out


def test_a_pack_without_a_subject_says_so(capsys):
    show_page(Output(), "plot", [], type(PACKS["playbook-1"][1])())
    assert capsys.readouterr().out == "The rule pack says nothing on plot.\n"
