# SPDX-License-Identifier: Apache-2.0
"""How test processes share the files: one that crashes costs the test that it ran, and no other waits for ever."""

from pathlib import Path
from types import SimpleNamespace

import pytest

LIGHT = [f"tests/unit/house/test_{name}.py::test_{number}" for name in "abcdef" for number in range(3)]
HEAVY = [f"tests/unit/worker/data/test_{name}.py::test_{number}" for name in "gh" for number in range(3)]
ALONE = ["tests/unit/house/test_z.py::test_alone"]


class Node:
    """A process of tests as xdist has it: it runs a test once it knows the next one, or that there is none."""

    def __init__(self, name, collection) -> None:
        self.gateway, self.collection = SimpleNamespace(id=name), collection
        self.shutting_down, self._given, self._at = False, [], 0

    def send_runtest_some(self, indices) -> None:
        assert not self.shutting_down
        self._given += indices

    def shutdown(self) -> None:
        self.shutting_down = True

    def following(self) -> int | None:
        """Index of the test that it runs now; None: it waits, or is at its end."""
        if self._at >= len(self._given) - (not self.shutting_down):
            return None
        self._at += 1
        return self._given[self._at - 1]


@pytest.fixture
def plugin(request):
    return request.config.pluginmanager.get_plugin(str(Path(__file__).parents[2] / "conftest.py"))


@pytest.fixture
def sharing(plugin):
    option = SimpleNamespace(loadscopereorder=False)
    return plugin.Sharing(SimpleNamespace(getvalue=lambda _: ["popen"] * 3, option=option), None)


@pytest.mark.parametrize("dies_after", [*range(24), None])
@pytest.mark.parametrize("who", [0, 2])
def test_every_test_is_run_whichever_process_dies_and_when(sharing, who, dies_after):
    everything = HEAVY + LIGHT + ALONE
    nodes = [Node("gw0", everything), Node("gw1", LIGHT + ALONE), Node("gw2", LIGHT + ALONE)]
    dying, run, crashed = nodes[who], [], []
    for node in nodes:
        sharing.add_node(node)
    for node in nodes:
        sharing.add_node_collection(node, node.collection)
    sharing.schedule()
    while nodes:
        moved = False
        for node in list(nodes):
            index = node.following()
            if index is None and not node.shutting_down:
                continue
            moved = True
            if index is not None and node is dying and len(run) >= (dies_after if dies_after is not None else 99):
                nodes.remove(node)
                crashed.append(sharing.remove_node(node))
                nodes.append(Node("gw3", everything))
                sharing.add_node(nodes[-1])
                sharing.add_node_collection(nodes[-1], everything)
                sharing.schedule()
            elif index is None:
                nodes.remove(node)
                assert sharing.remove_node(node) is None
            else:
                run.append(node.collection[index])
                sharing.mark_test_complete(node, index)
        assert moved, "every process waits"
    assert sorted(run) == sorted(everything)
    assert not any(test is None for test in crashed)


@pytest.mark.parametrize(
    ("process", "yields"), [(None, False), ("gw0", False), ("gw1", True), ("gw3", True), ("gw4", False)]
)
def test_processes_that_do_not_train_leave_the_processor_to_the_one_that_does(plugin, monkeypatch, process, yields):
    asked = []
    monkeypatch.setattr(plugin.os, "nice", asked.append)
    given = {} if process is None else {"workerinput": {"workerid": process, "workercount": 4}}
    plugin.pytest_configure(SimpleNamespace(**given))
    assert asked == ([plugin.NICE] if yields else [])
