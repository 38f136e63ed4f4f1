# SPDX-License-Identifier: Apache-2.0
"""The benchmark against other trainers: its rows, the turns of its two processes, and what is made of their steps."""

import ast
import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3] / "benchmarks" / "worker"))

import against_trl_settings
import docstring_rows
import turns
from turns import Side, SideError, Step

BENCHMARKS = Path(turns.__file__).parent

TRAINER = f"""
import sys
sys.path.insert(0, {str(BENCHMARKS)!r})
from pacing import Pacer, settings
pacer, asked = Pacer(), settings()
print("a library's banner")
pacer.ready()
for number in range(asked["steps"]):
    open(asked["log"], "a").write(asked["name"])
    if asked.get("fails_at") == number:
        sys.exit("no such kernel")
    pacer.step(tokens=100, loss=3.0 - number)
pacer.tell("held_out", step=asked["steps"], loss=1.5)
pacer.tell("done", peak_bytes=7)
"""


@pytest.fixture
def chats(monkeypatch):
    # All modules take some seconds to parse.
    monkeypatch.setattr(docstring_rows, "MODULES", ("heapq", "textwrap", "calendar", "no_such_module"))
    return docstring_rows.rows(24)


def side(tmp_path, name, **asked: int):
    program = tmp_path / "trainer.py"
    program.write_text(TRAINER)
    settings = {"work": str(tmp_path / name), "log": str(tmp_path / "log"), "name": name, "steps": 3}
    return Side([sys.executable, "-S", str(program)], settings | asked)


def test_rows_are_chats_whose_question_does_not_hold_the_answer(chats, tmp_path):
    for chat in chats:
        question, answer = (message["content"] for message in chat["messages"])
        assert [message["role"] for message in chat["messages"]] == ["user", "assistant"]
        assert answer not in question
        assert docstring_rows.SHORTEST <= len(answer) <= docstring_rows.LONGEST

    digest = docstring_rows.write(tmp_path / "rows.jsonl", chats)
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == chats
    assert docstring_rows.write(tmp_path / "again.jsonl", docstring_rows.rows(24)) == digest


def test_fewer_rows_are_the_first_ones_of_more(chats):
    assert docstring_rows.rows(8) == chats[:8]


@pytest.mark.usefixtures("chats")
def test_more_rows_than_the_library_has_are_refused():
    with pytest.raises(ValueError, match="1000000 are asked for"):
        docstring_rows.rows(1_000_000)


def test_a_definition_is_shown_without_its_docstring():
    source = 'def double(x):\n    """Twice x."""\n    return 2 * x\n'
    (node,) = ast.parse(source).body

    assert docstring_rows._shown(node, source.splitlines()) == "def double(x):\n    return 2 * x"


def test_sides_take_turns_and_each_begins_every_second_round(tmp_path):
    own, peer = side(tmp_path, "o"), side(tmp_path, "p")

    turns.take_turns(own, peer, warm_up=1, rounds=2)

    assert (tmp_path / "log").read_text() == "oppoop"
    assert [step.tokens for step in own.steps] == [100, 100, 100]
    assert own.losses == [3.0, 2.0, 1.0]
    assert peer.held_out == {3: 1.5}
    assert peer.peak_bytes == 7


def test_a_side_that_fails_says_why_and_the_other_one_is_ended(tmp_path):
    own, peer = side(tmp_path, "o"), side(tmp_path, "p", fails_at=1)

    with pytest.raises(SideError, match="no such kernel"):
        turns.take_turns(own, peer, warm_up=1, rounds=2)

    assert own._process is None


def test_the_rate_alone_leaves_the_first_steps_out(tmp_path):
    tried = side(tmp_path, "p")

    rate = turns.alone(tried, warm_up=1, rounds=2)

    assert rate == turns.rate(tried.steps[1:])
    assert tried._process is None


def test_rates_are_medians_over_steps_and_ratios_are_by_round():
    own = [Step(1.0, 2.0, 300), Step(1.0, 1.5, 330), Step(10.0, 1.0, 300)]
    peer = [Step(2.0, 2.0, 200), Step(3.0, 3.0, 330), Step(20.0, 2.0, 200)]

    assert turns.rate(own) == 300
    assert turns.cpu_rate(own) == 220
    assert turns.ratios(own, peer) == pytest.approx([3.0, 3.0, 3.0])


@pytest.mark.parametrize(("own", "same"), [((2.004, 1.51), True), ((2.02, 1.5), False), ((2.0, 1.6), False)])
def test_curves_are_the_same_where_both_ends_are(own, same):
    peer = {0: 2.0, 9: 1.5}

    assert turns.same_curve(dict(zip(peer, own, strict=True)), peer, start=0.005, end=0.02) is same


def test_every_way_of_a_peer_takes_the_rows_of_a_step():
    for ways in against_trl_settings.WAYS.values():
        for way in ways:
            rows = way["micro_batch"] * way["accumulation"]
            expected = 3 * against_trl_settings.LENGTH if way["packing"] else against_trl_settings.BATCH
            assert rows * (way["length"] if way["packing"] else 1) == expected
