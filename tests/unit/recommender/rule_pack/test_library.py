# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_recommender.rule_pack.library import SECONDS_BETWEEN_LOOKS, Library
from finetree_recommender.rule_pack.yaml import PackError

HOUSE = 'id: house\ndate: "2026-01-02"\ntitle: {title}\nextends: playbook-1\n'


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def later(self) -> None:
        self.now += SECONDS_BETWEEN_LOOKS


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def house(tmp_path):
    """Writes a file of the folder."""

    def write(text: str = HOUSE.format(title="First"), name: str = "house.yaml") -> None:
        (tmp_path / name).write_text(text, encoding="utf-8")

    return write


@pytest.fixture
def library(tmp_path, house, clock):
    house()
    return Library(tmp_path, clock=clock)


def titles(library):
    return {entry.id: entry.pack.rules.title for entry in library.entries() if not entry.built_in and entry.pack}


def test_own_packs_are_added_to_the_built_in_ones(library):
    assert list(library) == ["playbook-1", "evidence-1", "house"]
    assert [entry.built_in for entry in library.entries()] == [True, True, False]
    assert library["house"].extends == "playbook-1"


def test_without_a_folder_there_are_the_built_in_ones():
    assert list(Library()) == ["playbook-1", "evidence-1"]


def test_a_broken_file_stops_the_start_and_is_named(tmp_path, house):
    house("id: house\nextends: playbook-1\n")
    with pytest.raises(PackError, match=r"house\.yaml: line 1: rule house: date is missing; mend it"):
        Library(tmp_path)


def test_an_edit_is_read_after_a_while_and_not_before(library, house, clock):
    house(HOUSE.format(title="The second"))
    assert titles(library) == {"house": "First"}
    clock.later()
    assert titles(library) == {"house": "The second"}


def test_a_broken_edit_keeps_the_good_rules_and_says_so(library, house, clock):
    before = library["house"]
    house("id: [")
    clock.later()
    assert library["house"] is before
    (entry,) = (item for item in library.entries() if item.id == "house")
    assert "not YAML" in entry.problem
    house(HOUSE.format(title="Mended again"))
    clock.later()
    assert titles(library) == {"house": "Mended again"}
    assert not any(item.problem for item in library.entries())


def test_a_new_file_that_never_was_a_pack_is_shown_and_not_used(library, house, clock):
    house("id: x\n", "draft.yaml")
    clock.later()
    (entry,) = (item for item in library.entries() if item.problem)
    assert (entry.id, entry.pack) == ("draft.yaml", None)
    assert "x" not in library


def test_a_file_that_is_gone_takes_its_pack_away(library, tmp_path, clock):
    (tmp_path / "house.yaml").unlink()
    clock.later()
    assert "house" not in library


def test_a_pack_may_extend_another_of_the_folder(library, house, clock):
    house(HOUSE.format(title="Over house").replace("id: house", "id: above").replace("playbook-1", "house"), "a.yaml")
    clock.later()
    assert library["above"].extends == "house"
    first = library["above"].sha256
    house(HOUSE.format(title="Another base"))
    clock.later()
    assert library["above"].sha256 != first


@pytest.mark.parametrize("taken", ["playbook-1", "house"])
def test_a_name_is_given_once(library, house, clock, taken):
    house(HOUSE.format(title="Again").replace("id: house", f"id: {taken}"), "z.yaml")
    clock.later()
    (entry,) = (item for item in library.entries() if item.problem)
    assert entry.id == "z.yaml"
    assert f"another pack is called '{taken}'" in entry.problem
    assert library["house"].rules.title == "First"


def test_a_folder_that_cannot_be_read_changes_nothing(library, tmp_path, clock):
    (tmp_path / "house.yaml").unlink()
    tmp_path.rmdir()
    clock.later()
    assert "house" in library
