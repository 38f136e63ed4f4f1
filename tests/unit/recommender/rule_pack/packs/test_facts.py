# SPDX-License-Identifier: Apache-2.0
"""Every fact of the playbook, held against the loaded pack: served as facts.json says, or superseded with a reason."""

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from finetree_recommender.decision import override_and_tree
from finetree_recommender.decision.pipeline import decide
from finetree_recommender.decision.prior_figures import pack_seconds
from finetree_recommender.decision.stages import choose
from finetree_recommender.messages import method_cards
from finetree_recommender.method import Method
from finetree_recommender.recipe import build
from finetree_recommender.rule_pack.answers import Answers
from finetree_recommender.rule_pack.pack import Pack

_SPEC = importlib.util.spec_from_file_location("facts_page", Path(__file__).with_name("facts_page.py"))
facts_page = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(facts_page)
FACTS = facts_page.facts()
KEYS = ("id", "method", "name", "label", "rank")
TOKEN = re.compile(r"([a-zA-Z_0-9]+)|\[([^\]]+)\]")

MEMORY = ("80", "24", "16", "8", "below_8")
BUDGET = ("unlimited", "usd_100_500", "usd_50_100", "below_50")
QUALITY = ("CRITICAL", "IMPORTANT", "ACCEPTABLE", "EXPERIMENTAL")
TIME = ("DAYS", "HOURS", "MINUTES")
TASKS = ("MANY_DIFFERENT", "SIMILAR", "SINGLE")


@pytest.fixture(scope="module")
def served(pack):
    """What paths of facts.json begin with: the pack's rules, and the replies made of it."""
    cards = {method: method_cards.cards(pack, [method])[0] for method in Method}
    rules = {item.name: getattr(pack.rules, item.name) for item in fields(pack.rules)}
    return rules | {"card": cards, "guide": method_cards.guide(pack)}


def look_up(root: object, path: str) -> object:
    """The value at a path: `.name` for an attribute or a key, `[key]` for an entry by its id, method, name or place."""
    found: Any = root
    for name, key in TOKEN.findall(path):
        found = _attribute(found, name) if name else _entry(found, key)
    return found


def _attribute(value: Any, name: str) -> Any:
    return value[name] if isinstance(value, Mapping) else getattr(value, name)


def _entry(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return value[key]
    if key.isdigit():
        return value[int(key)]
    return next(item for item in value if any(getattr(item, name, None) == key for name in KEYS))


def plain(value: object) -> object:
    """Tuples and repeated fields as lists, methods as words."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return value
    return [plain(item) for item in value]


def test_all_122_facts_are_in_the_table():
    assert [fact["id"] for fact in FACTS] == list(range(1, 123))


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: f"{fact['id']}")
def test_a_fact_is_served_or_superseded_with_a_reason(fact, pack, read, served):
    proofs = 0
    for path, expected in fact.get("served", {}).items():
        found = plain(look_up(served, path))
        assert found == (pytest.approx(expected, rel=1e-5) if type(expected) is float else expected), path
        proofs += 1
    for case in fact.get("verdicts", []):
        method = decide(pack, read(7_000_000_000, **case["request"]).answers, None).method
        assert method == case["method"], case["request"]
        proofs += 1
    if "proof" in fact:
        PROOFS[fact["proof"]](pack, read)
        proofs += 1
    assert proofs, "nothing shows it"
    assert fact["status"] in ("served", "superseded")
    if fact["status"] == "superseded":
        assert fact["resolution"] in {item.id for item in pack.rules.resolutions}
        assert fact["instead"]


def test_every_resolution_is_recorded_once(pack):
    ids = [item.id for item in pack.rules.resolutions if item.id.startswith("B")]
    wanted = [f"B{number}" for number in range(1, 39)]
    wanted.insert(wanted.index("B25") + 1, "B25b")
    assert ids == wanted
    assert all(item.about and item.decision and item.reason for item in pack.rules.resolutions)


def test_every_proof_is_of_some_fact():
    assert set(PROOFS) == {fact["proof"] for fact in FACTS if "proof" in fact}


def test_the_page_is_that_of_the_table():
    assert facts_page.PAGE.read_text(encoding="utf-8") == facts_page.page(), "run facts_page.py"


def _table() -> list[Answers]:
    return [Answers(*answers) for answers in product(MEMORY, BUDGET, QUALITY, TIME, TASKS)]


def _plurality(pack: Pack, read: object) -> None:
    choice = choose(pack, Answers(memory="24", budget="usd_100_500", quality="IMPORTANT", time="MINUTES"))
    totals = {method: choice.ballot.total(method) for method in Method}
    assert choice.method is Method.LORA
    assert totals[Method.LORA] > max(total for method, total in totals.items() if method is not Method.LORA)


def _domain(pack: Pack, read: object) -> None:
    ours = ("cpu", "usd_500_2000", "MAXIMUM")
    sizes = [sum(option.value not in ours for option in question.options) for question in pack.rules.questions]
    assert sizes == [5, 4, 4, 3, 3]
    assert len(_table()) == 720


def _hours(pack: Pack, method: Method, examples: int) -> float:
    figure = pack_seconds(pack, method, examples)
    assert figure is not None
    return figure.expected / 3600


def _scenario_2_hours(pack: Pack, read: object) -> None:
    assert 2 <= _hours(pack, Method.QLORA, 500) <= 3


def _scenario_3_runs_a_day(pack: Pack, read: object) -> None:
    assert 8 / _hours(pack, Method.PREFIX, 1000) >= 10


def _shares(pack: Pack, read: object) -> None:
    shares = [f.expected for card in pack.rules.methods for f in card.figures if f.name == "share_percent"]
    assert sum(shares) == 100


def _default_recipe(pack: Pack, read: Callable[..., Any]) -> None:
    lora = build.build(pack, read(7_000_000_000), Method.LORA, parameters=7_000_000_000).spec.lora
    assert (lora.rank, lora.alpha, lora.dropout) == (8, 16, pytest.approx(0.1))


def _texts_for_screens(pack: Pack, read: object) -> None:
    guide = method_cards.guide(pack)
    for card in method_cards.cards(pack, Method):
        texts = [card.description, card.tooltip, card.best_for, card.efficiency_label, *card.when_to_use]
        texts += [text for badge in card.badge_details for text in (badge.label, badge.tooltip)]
        assert card.efficiency
        assert all(texts)
    for question in guide.questions:
        assert all((question.text, question.help, question.field_path))
        assert all(option.label and option.tooltip and option.HasField("request") for option in question.options)


def _cost_is_hours_times_price(pack: Pack, read: object) -> None:
    printed = {Method.FULL: (60, 300), Method.LORA: (3, 12), Method.QLORA: (2.4, 9.6), Method.ADAPTER: (3.75, 15)}
    for method, costs in printed.items():
        rate, hours = pack.rules.times.usd_per_hour[method], pack.rules.times.hours[method]
        assert (hours[1] * rate, hours[2] * rate) == pytest.approx(costs)


def _prefix_cost_print_is_ten_percent_away(pack: Pack, read: object) -> None:
    rate, hours = pack.rules.times.usd_per_hour[Method.PREFIX], pack.rules.times.hours[Method.PREFIX]
    assert hours[2] * rate == pytest.approx(0.8)
    assert hours[1] * rate == pytest.approx(0.3)
    assert hours[1] * rate / 0.27 < 1.12


def _time_grows_with_data(pack: Pack, read: object) -> None:
    for hours in pack.rules.times.hours.values():
        assert all(less < more for less, more in pairwise(hours))


def _time_order(pack: Pack, read: object) -> None:
    order = (Method.PREFIX, Method.LORA, Method.ADAPTER, Method.QLORA, Method.FULL)
    for row in zip(*(pack.rules.times.hours[method] for method in order), strict=True):
        assert all(less < more for less, more in pairwise(row))


def _tree_is_monotone(pack: Pack, read: object) -> None:
    for quality in ("unknown", "MAXIMUM", *QUALITY):
        leaves = [
            override_and_tree.leaf(pack, Answers(memory=memory, quality=quality)).method
            for memory in ("8", "16", "24", "80")
        ]
        grades = [pack.card(leaf).quality_percent.expected for leaf in leaves]
        assert all(less <= more for less, more in pairwise(grades))


def _verdicts_are_feasible(pack: Pack, read: object) -> None:
    for answers in _table():
        choice = choose(pack, answers)
        assert choice.method is None or choice.method in choice.passage.feasible


PROOFS: dict[str, Callable[[Pack, Any], None]] = {
    "plurality": _plurality,
    "domain": _domain,
    "scenario_2_hours": _scenario_2_hours,
    "scenario_3_runs_a_day": _scenario_3_runs_a_day,
    "shares": _shares,
    "default_recipe": _default_recipe,
    "texts_for_screens": _texts_for_screens,
    "cost_is_hours_times_price": _cost_is_hours_times_price,
    "prefix_cost_print_is_ten_percent_away": _prefix_cost_print_is_ten_percent_away,
    "time_grows_with_data": _time_grows_with_data,
    "time_order": _time_order,
    "tree_is_monotone": _tree_is_monotone,
    "verdicts_are_feasible": _verdicts_are_feasible,
}
"""Facts that are no single value, by the name that facts.json gives them."""
