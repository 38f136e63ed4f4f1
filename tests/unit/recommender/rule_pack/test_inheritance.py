# SPDX-License-Identifier: Apache-2.0
import hashlib
from pathlib import Path

import pytest
from finetree_recommender.method import Method
from finetree_recommender.rule_pack.pack import Pack, builtin_packs, parse
from finetree_recommender.rule_pack.yaml import PackError

HEAD = 'id: house\ndate: "2026-01-02"\ntitle: House rules\nextends: playbook-1\n'


@pytest.fixture
def extend(pack):
    def build(text: str = "", head: str = HEAD) -> Pack:
        return parse((head + text).encode(), {"playbook-1": pack})

    return build


def test_what_a_pack_does_not_say_is_inherited(extend, pack):
    house = extend()
    assert (house.rules.id, house.rules.title) == ("house", "House rules")
    assert house.rules.tree == pack.rules.tree
    assert house.rules.recipe == pack.rules.recipe
    assert house.rules.methods == pack.rules.methods


def test_the_hash_covers_the_base(extend, pack):
    house = extend()
    assert house.sha256 == hashlib.sha256(HEAD.encode() + pack.sha256.encode()).hexdigest()
    assert house.sha256 != pack.sha256


def test_a_rule_is_replaced_as_a_whole(extend):
    house = extend(
        "cautions:\n  - {id: dont.full.quick, method: LORA, when: {time: [DAYS]}, message: m, source: 'playbook L1'}\n"
    )
    rules = {rule.id: rule for rule in house.rules.cautions}
    assert rules["dont.full.quick"].method is Method.LORA
    assert rules["dont.full.quick"].when == {"time": ("DAYS",)}
    assert "dont.full.budget" in rules


def test_new_rules_come_before_those_of_the_base(extend):
    house = extend(
        "use_cases:\n  - {id: ours, when: {use_case: [STARTUP], time: [DAYS]}, method: QLORA, source: 'playbook L1'}\n"
    )
    assert house.rules.use_cases[0].id == "ours"
    assert len(house.rules.use_cases) > 1


def test_a_recipe_table_replaces_the_one_that_sets_the_same_for_the_same(extend, pack):
    table = (
        "recipe:\n  - knob: lora.rank\n    methods: [LORA, QLORA]\n    profiles: [PLAYBOOK]\n    rows:\n"
        "      - {id: recipe.rank.house, value: 4, reason: r, source: 'playbook L174'}\n"
    )
    house = extend(table)
    ids = [row.id for rule in house.rules.recipe for row in rule.rows]
    assert "recipe.rank.house" in ids
    assert "recipe.rank.playbook" not in ids
    assert len(house.rules.recipe) == len(pack.rules.recipe)


def test_a_card_is_merged_by_method(extend, pack):
    house = extend("methods:\n  - {method: PREFIX, stars: {value: 0, source: 'playbook L1'}}\n")
    assert house.card(Method.PREFIX).stars.value == 0
    assert house.card(Method.PREFIX).title == pack.card(Method.PREFIX).title


def test_brackets_are_put_in_order(extend):
    options = ", ".join(f"{{id: m{gb}, value: '{gb}', votes: [], source: 'playbook L1'}}" for gb in (8, 16, 24, 48, 80))
    house = extend(
        "gate:\n  classes:\n"
        "    - {id: gate.24, key: '24', low: 24, high: 48, source: 'playbook L104'}\n"
        "    - {id: gate.48, key: '48', low: 48, high: 80, source: 'playbook L104'}\n"
        f"questions:\n  - {{id: q1_memory, input: memory, options: [{options}]}}\n"
    )
    assert [item.key for item in house.rules.gate.classes] == ["below_8", "8", "16", "24", "48", "80"]


def test_rules_are_removed_by_id(extend):
    house = extend("remove: [dont.full.quick, recipe.learning_rate.few_steps]\n")
    assert "dont.full.quick" not in {rule.id for rule in house.rules.cautions}
    assert "recipe.learning_rate.few_steps" not in {row.id for table in house.rules.recipe for row in table.rows}


def test_a_replaced_section_inherits_nothing(extend):
    house = extend("replace: [use_cases]\nuse_cases: []\n")
    assert house.rules.use_cases == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("remove: [dont.sing]\n", ["dont.sing", "no such rule"]),
        ("remove: dont\n", ["remove", "list of names"]),
        ("replace: [weather]\n", ["weather", "no such section"]),
        ("replace: [gate.doors]\n", ["gate.doors", "no such section"]),
        ("remove: [gate.16]\n", ["gate.8", "gate.24", "a gap between 16 and 24"]),
        ("cautions:\n  - {id: ours, method: FULL, when: {}, message: m}\n", ["line 6", "ours", "without a source"]),
    ],
)
def test_a_broken_extension_names_what_is_wrong(extend, text, words):
    with pytest.raises(PackError) as error:
        extend(text)
    assert all(word in str(error.value) for word in words), error.value


def test_a_base_must_be_there(extend):
    with pytest.raises(PackError, match=r"no pack 'folklore'; packs that can be extended are playbook-1"):
        extend(head=HEAD.replace("playbook-1", "folklore"))


def test_the_documented_pack_loads():
    page = (Path(__file__).parents[4] / "docs" / "rule-packs.md").read_text(encoding="utf-8")
    example = page.split("```yaml\n")[1].split("```")[0]
    house = parse(example.encode(), builtin_packs())
    assert (house.rules.id, house.extends) == ("house", "evidence-1")
    assert "house.full.budget" in {rule.id for rule in house.rules.cautions}
    ranks = [table for table in house.rules.recipe if table.knob == "lora.rank" and table.input == "examples"]
    assert [row.id for table in ranks for row in table.rows] == ["house.rank"]


@pytest.mark.parametrize("rule_id", ["[1]", "{a: 1}", "null"])
def test_an_id_that_is_no_word_is_refused(extend, rule_id):
    rule = f"cautions:\n  - {{id: {rule_id}, method: LORA, when: {{}}, message: m, source: 'playbook L1'}}\n"
    with pytest.raises(PackError, match="expected str"):
        extend(rule)


def test_a_rule_that_is_given_twice_is_refused(extend):
    rule = "  - {id: dont.full.quick, method: LORA, when: {}, message: m, source: 'playbook L1'}\n"
    with pytest.raises(PackError, match=r"'dont.full.quick' is given twice"):
        extend("cautions:\n" + rule + rule)
