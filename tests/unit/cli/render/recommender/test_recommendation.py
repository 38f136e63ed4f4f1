# SPDX-License-Identifier: Apache-2.0
"""Recommendations as text."""

from finetree.json import to_json
from finetree_api.recommender.v1 import recommendation_pb2 as pb
from finetree_api.types.v1 import check_pb2, estimate_summary_pb2, hardware_pb2, method_pb2, run_spec_pb2
from finetree_cli.output import Output
from finetree_cli.render.recommender import recommendation
from google.type import money_pb2


def test_a_recipe_is_flat_with_money_as_text():
    price = money_pb2.Money(currency_code="EUR", nanos=300_000_000)
    spec = run_spec_pb2.RunSpec(lora=method_pb2.Lora(rank=8), full=None)
    spec.ownership.owned.CopyFrom(hardware_pb2.OwnedHardware(price_per_kwh=price))
    assert recommendation.flat(to_json(spec)) == {"lora.rank": "8", "ownership.owned.price_per_kwh": "0.30 EUR"}


def test_a_short_answer_has_the_verdict_its_numbers_and_few_cautions(capsys):
    answer = pb.RecommendResponse(
        verdict=pb.Verdict(method=method_pb2.METHOD_LORA, headline="LoRA: it fits"),
        cautions=[pb.Caution(code=f"CODE_{number}", message="beware") for number in range(5)],
        confidence=pb.VerdictConfidence(factors=[check_pb2.Remark(code="FEW_ANSWERS", message="3 questions are open")]),
        estimate=estimate_summary_pb2.EstimateSummary(
            usable_device_bytes=8 << 30, fit=estimate_summary_pb2.FIT_VERDICT_TIGHT
        ),
    )
    answer.estimate.device_bytes.low, answer.estimate.device_bytes.expected = 6 << 30, 7 << 30
    answer.estimate.device_bytes.high = 9 << 30
    answer.estimate.cost.currency_code = "USD"
    answer.estimate.cost.amount.low, answer.estimate.cost.amount.expected, answer.estimate.cost.amount.high = 1, 2, 3
    recommendation.show(Output(), answer)
    out = capsys.readouterr().out
    for fact in ("LoRA: it fits", "7.00 GiB (6.00 GiB to 9.00 GiB) of 8.00 GiB; tight", "$2.00 ($1.00 to $3.00)"):
        assert fact in out
    assert "3 questions are open" in out
    assert [code for code in ("CODE_0", "CODE_2", "CODE_3") if code in out] == ["CODE_0", "CODE_2"]
