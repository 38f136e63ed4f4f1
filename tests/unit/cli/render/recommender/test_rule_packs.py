# SPDX-License-Identifier: Apache-2.0
"""Rule packs as text: values of settings and answers are the words of options, not the contract's names."""

import pytest
from finetree_api.recommender.v1 import recommendation_pb2, rule_pack_pb2
from finetree_api.types.v1 import run_spec_pb2
from finetree_cli.jobfile.yaml_scalars import value_words
from finetree_cli.output import Output
from finetree_cli.render.recommender.rule_packs import show
from finetree_recommender.messages.rule_packs import details
from finetree_recommender.rule_pack.library import Entry
from finetree_recommender.rule_pack.pack import builtin_packs

PACKS = builtin_packs()


def test_values_are_in_the_words_of_options(capsys):
    pack = rule_pack_pb2.GetRulePackResponse()
    pack.rules.add(id="recipe.targets", words="lora.targets: TARGET_PRESET_ALL_LINEAR: see A_B_C")
    pack.rules.add(id="scenario.3", words='request {"time": "TIME_NEED_MINUTES"}')
    show(Output(), pack)
    said = " ".join(capsys.readouterr().out.split())
    assert "lora.targets: all-linear: see A_B_C" in said
    assert 'request {"time": "minutes"}' in said


@pytest.mark.parametrize("name", PACKS)
def test_a_built_in_pack_is_shown_without_the_contracts_names(name, capsys):
    show(Output(), details(Entry(id=name, built_in=True, pack=PACKS[name]), PACKS[name]))
    names = value_words(run_spec_pb2.RunSpec.DESCRIPTOR, recommendation_pb2.RecommendRequest.DESCRIPTOR)
    said = capsys.readouterr().out
    assert [raw for raw in names if raw in said] == []
    assert len(names) > 100
