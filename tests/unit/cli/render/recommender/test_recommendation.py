# SPDX-License-Identifier: Apache-2.0
"""Parts of a recommendation as text."""

from finetree.json import to_json
from finetree_api.types.v1 import hardware_pb2, method_pb2, run_spec_pb2
from finetree_cli.render.recommender import recommendation
from google.type import money_pb2


def test_a_recipe_is_flat_with_money_as_text():
    price = money_pb2.Money(currency_code="EUR", nanos=300_000_000)
    spec = run_spec_pb2.RunSpec(lora=method_pb2.Lora(rank=8), full=None)
    spec.ownership.owned.CopyFrom(hardware_pb2.OwnedHardware(price_per_kwh=price))
    assert recommendation.flat(to_json(spec)) == {"lora.rank": "8", "ownership.owned.price_per_kwh": "0.30 EUR"}
