# SPDX-License-Identifier: Apache-2.0
import copy
import hashlib
from importlib import resources
from typing import Any

import pytest
import yaml
from finetree_recommender.method import Method
from finetree_recommender.recipe.build import build
from finetree_recommender.rule_pack.pack import parse
from finetree_recommender.rule_pack.yaml import PackError

TEXT = (resources.files("finetree_recommender.rule_pack") / "packs" / "playbook-1.yaml").read_bytes()
RAW = yaml.safe_load(TEXT)


DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def written(raw: dict[str, Any]) -> bytes:
    """A raw pack as YAML; only the sections that are not the playbook's are written anew."""
    return b"".join(SECTIONS[key] if value == RAW[key] else section(key, value) for key, value in raw.items())


def section(key: str, value: Any) -> bytes:
    return yaml.dump({key: value}, Dumper=DUMPER).encode()


SECTIONS = {key: section(key, value) for key, value in RAW.items()}


def find(tree, rule_id):
    """The mapping with an id, anywhere in the raw pack."""
    if isinstance(tree, dict):
        if tree.get("id") == rule_id:
            return tree
        tree = list(tree.values())
    found = (find(item, rule_id) for item in tree) if isinstance(tree, list) else ()
    return next((item for item in found if item is not None), None)


def broken(rule_id: str, **changes: Any) -> bytes:
    """The pack with a rule's keys changed; a value of None removes the key."""
    raw = copy.deepcopy(RAW)
    rule = find(raw, rule_id)
    for key, value in changes.items():
        if value is None:
            del rule[key]
        else:
            rule[key] = value
    return written(raw)


def test_the_playbook_loads_with_its_hash(pack):
    assert pack.rules.id == "playbook-1"
    assert pack.revision.sha256 == hashlib.sha256(TEXT).hexdigest()
    assert {card.method for card in pack.rules.methods} == set(Method)


def test_another_byte_is_another_revision(pack):
    assert parse(TEXT + b"\n").sha256 != pack.sha256


@pytest.mark.parametrize(
    ("rule_id", "changes", "words"),
    [
        ("gate.16", {"low": 15}, ["gate.8", "gate.16", "an overlap between 16 and 15"]),
        ("gate.24", {"low": 25}, ["gate.16", "gate.24", "a gap between 24 and 25"]),
        ("budget.usd_50_100", {"high": 90}, ["budget.usd_50_100", "a gap between 90 and 100"]),
        ("budget.usd_100_500", {"through": False}, ["budget.usd_100_500", "belongs to both or to neither"]),
        ("recipe.rank.playbook", {"source": None}, ["recipe.rank.playbook", "without a source"]),
        ("recipe.rank.playbook", {"source": "hearsay: somewhere"}, ["recipe.rank.playbook", "hearsay"]),
        ("recipe.rank.playbook", {"value": "eight"}, ["recipe.rank.playbook", "'eight' is no value of lora.rank"]),
        ("recipe.schedule", {"value": "SCHEDULE_SAWTOOTH"}, ["recipe.schedule", "SCHEDULE_SAWTOOTH"]),
        ("recipe.epochs.large_data", {"below": 1000000}, ["recipe.epochs.large_data", "gap"]),
        ("recipe.epochs.medium_data", {"below": 9000}, ["recipe.epochs.medium_data", "overlap"]),
        ("recipe.learning_rate.medium_model", {"id": "x"}, ["recipe.learning_rate.medium_model", "no row"]),
        ("recipe.precision.gpu", {"equals": ["tpu"]}, ["recipe.precision.gpu", "device"]),
        ("vote.time.days", {"value": "HOURS"}, ["q4_time", "HOURS"]),
        ("vote.time.days", {"value": "WEEKS"}, ["vote.time.days", "WEEKS"]),
        ("vote.time.days", {"votes": ["DORA"]}, ["vote.time.days", "DORA"]),
        ("dont.full.quick", {"when": {"mood": ["BAD"]}}, ["dont.full.quick", "mood"]),
        ("dont.full.quick", {"id": "dont.full.budget"}, ["dont.full.budget", "two rules"]),
        ("dont.full.quick", {"color": "red"}, ["dont.full.quick", "color"]),
        ("N3", {"no": "PREFIX"}, ["N4", "no path"]),
        ("N3", {"no": "N9"}, ["N9", "neither a node nor a method"]),
        ("N4", {"no": "N1"}, ["N1", "twice"]),
        ("order.stars", {"methods": ["LORA", "QLORA"]}, ["stars_order", "exactly once"]),
        ("recipe.batch", {"methods": ["LORA"]}, ["batch.start", "QLORA"]),
        ("literal.bars", {"resolution": "B99"}, ["literal.bars", "no resolution B99"]),
        ("vote.budget.usd_500_2000", {"source": "resolution: B99"}, ["vote.budget.usd_500_2000", "B99"]),
        ("vote.time.days", {"request": '{"tempo": 1}'}, ["vote.time.days", "RecommendRequest", "tempo"]),
        ("vote.memory.below_8", {"votes": ["PREFIX"]}, ["vote.memory.below_8", "upgrade"]),
        ("situation.fast", {"request": "soon"}, ["situation.fast", "RecommendRequest"]),
        ("situation.first_time", {"settings": '{"qlora": {}}'}, ["situation.first_time", "qlora", "LORA"]),
        ("situation.budget", {"settings": '{"lora": {"size": 8}}'}, ["situation.budget", "RunSpec", "size"]),
        ("finding.qlora_memory", {"low": 15}, ["finding.qlora_memory", "low, expected and high"]),
        ("finding.qlora_memory", {"high": None}, ["finding.qlora_memory", "low, expected and high"]),
        ("guide.rank.16", {"recommended": True}, ["lora_rank", "exactly one"]),
        ("chart.24", {"gb": 40}, ["content.hardware", "once"]),
        ("reference.prefix", {"method": "FULL"}, ["content.reference_gpus", "exactly once"]),
        ("dont.lora.memory", {"when": {"memory": ["24"]}}, ["dont.lora.memory", "the gate keeps LORA from"]),
        ("recipe.rank.playbook", {"range": [4]}, ["recipe.rank.playbook", "two numbers"]),
        ("recipe.rank.playbook", {"range": [64, 4]}, ["recipe.rank.playbook", "two numbers"]),
        ("recipe.rank.playbook", {"value": 128}, ["recipe.rank.playbook", "128 is outside of its range"]),
        ("recipe.batch", {"range": [1, 2, 3]}, ["recipe.batch", "two numbers"]),
        ("gate.tolerance", {"value": float("nan")}, ["gate.tolerance", "value is nan"]),
        ("gate.tolerance", {"value": -0.05}, ["gate.tolerance", "value is -0.05"]),
        ("chart.24", {"hours": float("inf")}, ["chart.24", "hours is inf"]),
    ],
)
def test_a_defect_is_named_with_its_rule(rule_id, changes, words):
    with pytest.raises(PackError) as error:
        parse(broken(rule_id, **changes))
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("name", "words"), [("color", "figure 'color' is unknown"), ("speed_factor", "figure 'speed_factor' is")]
)
def test_figures_of_cards_are_of_known_kinds_and_there_once(name, words):
    raw = copy.deepcopy(RAW)
    raw["methods"][0]["figures"][0]["name"] = name
    with pytest.raises(PackError, match=r"card LORA.*" + words):
        parse(written(raw))


def test_hours_are_there_for_each_size_of_data_and_above_0():
    for hours in ([1.0, 2.0], [0.0, 1.0, 2.0, 3.0], [-1.0, 1.0, 2.0, 3.0]):
        times = RAW["times"] | {"hours": RAW["times"]["hours"] | {"LORA": hours}}
        with pytest.raises(PackError, match=r"times: LORA needs hours above 0 for each of 4 sizes|hours is -1"):
            parse(written(RAW | {"times": times}))


def test_a_size_of_data_is_larger_than_the_one_before():
    times = RAW["times"] | {"examples": [100, 1000, 1000, 100_000]}
    with pytest.raises(PackError, match="each larger than the one before"):
        parse(written(RAW | {"times": times}))


def test_a_source_says_what_kind_it_is():
    sources = RAW["sources"] | {"torchtune": RAW["sources"]["torchtune"] | {"kind": "HEARSAY"}}
    with pytest.raises(PackError, match=r"torchtune\.kind: 'HEARSAY' is none of MEASURED"):
        parse(written(RAW | {"sources": sources}))


def test_a_table_of_factors_reads_an_input_that_there_is():
    tables = copy.deepcopy(RAW["recipe"])
    next(table for table in tables if table.get("factor") and table["input"] == "steps")["input"] = "moon"
    with pytest.raises(PackError, match=r"recipe.learning_rate.few_steps: no input 'moon'"):
        parse(written(RAW | {"recipe": tables}))


def test_a_table_has_rows_and_a_profile_that_there_is():
    tables = copy.deepcopy(RAW["recipe"])
    tables[0]["rows"] = []
    with pytest.raises(PackError, match="has no rows"):
        parse(written(RAW | {"recipe": tables}))
    with pytest.raises(PackError, match="there is no profile 'HOUSE'"):
        parse(TEXT + b"profile: HOUSE\n")


def test_a_guide_that_a_card_names_exists():
    raw = copy.deepcopy(RAW)
    raw["methods"][0]["parameters"][0]["choices"] = "lora_width"
    with pytest.raises(PackError, match=r"card LORA.*lora_width"):
        parse(written(raw))


def test_a_missing_option_is_a_gap():
    raw = copy.deepcopy(RAW)
    raw["questions"][3]["options"].pop()
    with pytest.raises(PackError, match=r"q4_time.*MINUTES.*gap"):
        parse(written(raw))


def test_a_knob_without_a_table_is_a_gap():
    raw = copy.deepcopy(RAW)
    raw["recipe"] = [
        t for t in raw["recipe"] if (t["knob"], t.get("methods")) != ("training.learning_rate", ["PREFIX"])
    ]
    with pytest.raises(PackError, match=r"learning_rate of PREFIX.*gap"):
        parse(written(raw))


def test_two_tables_that_always_set_a_knob_overlap():
    raw = copy.deepcopy(RAW)
    table = copy.deepcopy(next(t for t in raw["recipe"] if t["knob"] == "attention"))
    table["rows"][0]["id"] = "recipe.attention.again"
    raw["recipe"].append(table)
    with pytest.raises(PackError, match=r"recipe.attention and recipe.attention.again.*overlap"):
        parse(written(raw))


@pytest.mark.parametrize("text", [b"a: [", b"", b"- 1\n", b"id: x\n"])
def test_what_is_no_pack_is_refused(text):
    with pytest.raises(PackError):
        parse(text)


def test_a_cap_bounds_what_factors_make_of_a_rate(read):
    pack = parse(broken("recipe.learning_rate.tiny_model", value=9.0e-4))
    built = build(pack, read(dataset_profile={"examples": 20}), Method.LORA, parameters=135_000_000)
    assert built.spec.training.learning_rate == pytest.approx(1.0e-3)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
)
"""The billion laughs: 400 bytes that stand for ten billion values."""


@pytest.mark.parametrize(
    "bomb",
    [LAUGHS + "extends: *j\n", LAUGHS, "id: &a [*a]\n", "extends: &a {b: [*a, *a]}\n"],
    ids=["laughs-in-a-value", "laughs", "cycle", "two-cycles"],
)
def test_a_bomb_of_aliases_is_refused_before_it_is_read(bomb):
    with pytest.raises(PackError, match="its aliases stand for more than 100000 values"):
        parse(bomb.encode())


def test_brackets_without_end_are_refused():
    with pytest.raises(PackError, match="not YAML"):
        parse(b"a: " + b"[" * 100_000)
