# SPDX-License-Identifier: Apache-2.0
"""Checks that each rule of a pack can be reached and each case has one, over all answers that rules distinguish.

Answers that no rule of a section tells apart are tried once, so that a section of a few rules takes a few dozen tries.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

from finetree_recommender.method import Method
from finetree_recommender.rule_pack.answers import CPU, PRIORITY_WORDS, UNKNOWN, vocabulary
from finetree_recommender.rule_pack.schema.basic import When
from finetree_recommender.rule_pack.schema.recipe import Table
from finetree_recommender.rule_pack.schema.rules import Leaf, Node, Rules, UpgradeRule
from finetree_recommender.rule_pack.yaml import PackError

Words = Mapping[str, tuple[str, ...]]
"""Answers of each input, "unknown" among them."""
Case = Mapping[str, str]
"""One answer for each distinguished input."""

NUMBERS = ("examples", "parameters", "rank", "steps")
"""Inputs of recipe tables that are numbers."""


def check_reach(rules: Rules) -> None:
    """Check the tree, the use cases, the upgrade rules and the recipe's tables.

    Raises:
        PackError: A rule that no case reaches, or a case without a rule.
    """
    words = {name: (*values, UNKNOWN) for name, values in vocabulary(rules).items()}
    upgrades = (CPU, *(item.key for item in rules.gate.classes if item.upgrade))
    sizes = tuple(word for word in words["memory"] if word != UNKNOWN)
    physics = rules.gate.physics is not None
    _tree(rules.tree.root, rules.tree.nodes, words | {"memory": sizes if physics else _less(sizes, upgrades)})
    _first_match("use_cases", rules.use_cases, words | {"memory": (UNKNOWN,)})
    upgraded = words | {"memory": sizes if physics else upgrades}
    _first_match("upgrade", rules.upgrade, upgraded)
    _no_gap(rules.upgrade, upgraded)
    for table in rules.recipe:
        _known_input(table, words)
    for method, profile in product(Method, ("PLAYBOOK", "EVIDENCE")):
        tables = [table for table in rules.recipe if method in table.methods and profile in table.profiles]
        _tables([table for table in tables if not table.factor], method, profile)


def _less(words: tuple[str, ...], without: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word for word in words if word not in without)


def _cases(conditions: Sequence[When], words: Words) -> Iterator[Case]:
    """Yield one case for each combination that the conditions distinguish."""
    names = list(dict.fromkeys(name for when in conditions for name in when))
    choices = []
    for name in names:
        told = {tuple(word in when.get(name, (word,)) for when in conditions): word for word in words[name]}
        choices.append(tuple(told.values()))
    for values in product(*choices):
        yield dict(zip(names, values, strict=True))


def _holds(when: When, case: Case) -> bool:
    return all(case[name] in allowed for name, allowed in when.items())


def _tree(root: str, nodes: Sequence[Node], words: Words) -> None:
    by_id = {node.id: node for node in nodes}
    needed = sorted({node.needs for node in nodes if node.needs is not None})
    taken: set[tuple[str, bool]] = set()
    for case in _cases([node.when for node in nodes], words):
        for fitting in product((False, True), repeat=len(needed)):
            fits = {method for method, yes in zip(needed, fitting, strict=True) if yes}
            taken.update(_path(root, by_id, case, fits=fits))
    for node in nodes:
        for answer in (True, False):
            if (node.id, answer) not in taken:
                side = "yes" if answer else "no"
                raise PackError(f"rule {node.id}: no answers take its {side!r}; leave the question out, or mend it")


def _path(root: str, nodes: Mapping[str, Node], case: Case, *, fits: set[Method]) -> Iterator[tuple[str, bool]]:
    name = root
    while name in nodes:
        node = nodes[name]
        yes = _holds(node.when, case) and (node.needs is None or node.needs in fits)
        yield name, yes
        name = node.yes if yes else node.no


def _first_match(section: str, rules: Sequence[Leaf | UpgradeRule], words: Words) -> None:
    """Check lists of which the first rule that holds is taken."""
    reached = {
        next((rule.id for rule in rules if _holds(rule.when, case)), "") for case in _cases(_whens(rules), words)
    }
    for rule in rules:
        if rule.id not in reached:
            raise PackError(f"rule {rule.id}: rules of {section} before it take every case that it is for")


def _no_gap(rules: Sequence[UpgradeRule], words: Words) -> None:
    for case in _cases(_whens(rules), words):
        if not any(_holds(rule.when, case) for rule in rules):
            told = ", ".join(f"{name} {word}" for name, word in case.items())
            raise PackError(f"upgrade: a gap: no rule for {told or 'any case'}")


def _whens(rules: Iterable[Leaf | UpgradeRule]) -> list[When]:
    return [rule.when for rule in rules]


def _tables(tables: Sequence[Table], method: Method, profile: str) -> None:
    """Check the tables of a knob, of which the first with a row for the case is taken."""
    always: dict[str, str] = {}
    said: dict[tuple[str, str], set[str]] = {}
    for table in tables:
        if table.knob in always:
            text = (
                f"rule {table.rows[0].id}: {always[table.knob]} always sets {table.knob} of {method.value} in {profile}"
            )
            raise PackError(f"{text}, and nothing reaches this one")
        before = said.setdefault((table.knob, table.input), set())
        for row in table.rows:
            if row.equals and before.issuperset(row.equals):
                raise PackError(f"rule {row.id}: rows before it take {', '.join(row.equals)}")
            if row.at_least is not None and row.below is not None and row.at_least >= row.below:
                raise PackError(f"rule {row.id}: nothing lies from {row.at_least:g} to below {row.below:g}")
            if not table.parameters_from:  # else smaller models go past it
                before.update(row.equals)
        if table.total:
            always[table.knob] = table.rows[0].id


def _known_input(table: Table, words: Words) -> None:
    if table.input in ("", "device", *NUMBERS):
        return
    known = {**words, "priority": PRIORITY_WORDS}
    if table.input not in known:
        raise PackError(
            f"rule {table.rows[0].id}: no input {table.input!r}; inputs are {', '.join((*known, *NUMBERS))}"
        )
    for row in table.rows:
        wrong = [word for word in row.equals if word not in known[table.input]]
        if wrong:
            raise PackError(
                f"rule {row.id}: {table.input} is never {wrong[0]!r}; it is {', '.join(known[table.input])}"
            )
