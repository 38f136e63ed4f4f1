# SPDX-License-Identifier: Apache-2.0
"""Method cards as people read them."""

import pytest
from finetree_api.recommender.v1 import method_card_pb2
from finetree_api.types.v1 import evidence_pb2, method_pb2
from finetree_cli.output import Output
from finetree_cli.render.recommender.method_cards import show_card

SOURCE = evidence_pb2.Provenance(source="A study", locator="table 2")


def point(value: float) -> evidence_pb2.Interval:
    return evidence_pb2.Interval(low=value, expected=value, high=value, provenance=[SOURCE])


def dollars(value: float) -> evidence_pb2.MoneyInterval:
    return evidence_pb2.MoneyInterval(amount=point(value), currency_code="USD")


CHART = [
    method_card_pb2.HardwareRow(
        accelerator="Big",
        marketed_memory_gb=80,
        method=method_pb2.METHOD_FULL,
        total_seconds=point(7200),
        cost_per_month=dollars(2000),
        cost_open_ended=True,
    ),
    method_card_pb2.HardwareRow(accelerator="Tiny", marketed_memory_gb=4, note="too small"),
]
CARD = method_card_pb2.MethodCard(
    method=method_pb2.METHOD_FULL,
    title="Full fine-tuning",
    description="Trains all weights.",
    badges=["expensive"],
    efficiency_label="slow",
    warning=True,
    best_for="quality",
    quality_percent=evidence_pb2.Interval(low=98, expected=100, high=100, provenance=[SOURCE]),
    advice=[
        method_card_pb2.Advice(text="quality is critical", redirects=[method_pb2.METHOD_LORA, method_pb2.METHOD_QLORA]),
        method_card_pb2.Advice(text="it is an experiment"),
    ],
    figures=[method_card_pb2.CardFigure(name="speed_factor", label="Speed", text="3 times", provenance=SOURCE)],
    hardware=CHART[:1],
    reference_cost=method_card_pb2.ReferenceCost(
        accelerator="Big",
        price_per_hour=dollars(2.5),
        basis="7B",
        rows=[method_card_pb2.DatasetCost(examples=1000, total_seconds=point(86400), cost=dollars(60))],
    ),
    parameters=[
        method_card_pb2.ParameterGuide(
            field_path="lora.rank",
            choices=[
                method_card_pb2.ParameterChoice(value="16", use_for=["general use", "chat"]),
                method_card_pb2.ParameterChoice(value="8", recommended=True),
            ],
        )
    ],
    evidence=[method_card_pb2.EvidenceRow(claim="peak", text="18.9 GiB", provenance=SOURCE)],
)


@pytest.fixture
def shown(capsys):
    show_card(Output(), CARD)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        "Full fine-tuning  ! · slow · expensive",
        "LoRA or QLoRA",
        "it is an experiment",
        "98 to 100 %",
        "3 times",
        "A study, table 2",
        "$2000.00 or more",
        "$2.50",
        "$60.00",
        "general use, chat",
        "8 (recommended)",
        "18.9 GiB",
    ],
)
def test_a_card_shows_what_it_holds(shown, words):
    assert words in shown


def test_an_empty_card_shows_its_name_and_nothing_that_is_not_known(capsys):
    show_card(Output(), method_card_pb2.MethodCard(title="LoRA"))
    assert capsys.readouterr().out.strip() == "LoRA"


def test_the_hardware_marks_a_gpu_that_nothing_suits(capsys):
    show_card(Output(), method_card_pb2.MethodCard(title="LoRA", hardware=CHART))
    tiny = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("Tiny"))
    assert "none" in tiny
    assert "too small" in tiny
