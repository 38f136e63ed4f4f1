# SPDX-License-Identifier: Apache-2.0
"""What a replica that leads a cluster does, and what one that leads no more cannot do."""

import asyncio
import sys
from types import SimpleNamespace

import pytest
from finetree_data.exchange.leader_file import Leader, target
from finetree_runtime.errors import DomainError, Unavailable
from finetree_runtime.server.identity import distribution_version
from finetree_trainer.workers.ray import leading as under_test
from finetree_trainer.workers.ray.driver import Driver
from finetree_trainer.workers.ray.leading import Leading
from finetree_trainer.workers.ray.node import SECRET, WorkerHost


@pytest.fixture
def file(tmp_path):
    return tmp_path / "leader" / "leader.json"


@pytest.fixture
def former(file):
    """One that has led before another one does."""
    made = Leading(file, "10.0.0.1:50060", alone=False)
    made.begin()
    Leading(file, "10.0.0.2:50060", alone=False).begin()
    return made


def test_workers_of_replicas_find_the_one_that_leads_and_of_one_alone_its_address(file, former):
    assert target(former.address) == "10.0.0.2:50060"
    alone = Leading(file, "10.0.0.3:50060", alone=True)
    alone.begin()
    assert alone.address == "10.0.0.3:50060"
    assert target(former.address) == "10.0.0.2:50060"


async def test_a_file_that_a_former_leader_wrote_last_is_taken_back(file, monkeypatch):
    monkeypatch.setattr(under_test, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(under_test, "LAST_WORKER_SECONDS", 0.0)
    leader, ended = Leading(file, "10.0.0.2:50060", alone=False), asyncio.Event()
    Leading(file, "10.0.0.1:50060", alone=False).begin()
    loop = asyncio.create_task(leader.run(lambda: None, ended.set))
    await asyncio.wait_for(ended.wait(), 60)  # what the former one has started meanwhile is ended after that
    loop.cancel()
    assert target(leader.address) == "10.0.0.2:50060"


async def test_one_that_leads_no_more_takes_nothing_back(file, former, monkeypatch):
    monkeypatch.setattr(under_test, "LOOK_SECONDS", 0.01)

    def superseded() -> None:
        raise Unavailable("STORE_UNAVAILABLE", "Another replica leads.")

    with pytest.raises(DomainError, match="leads"):
        await asyncio.wait_for(former.run(superseded, pytest.fail), 60)
    assert Leader.read(file).address == "10.0.0.2:50060"


async def test_a_node_starts_and_signals_nothing_for_one_that_leads_no_more(tmp_path, former, file):
    host, folder = WorkerHost(), tmp_path / "w"
    folder.mkdir()
    (folder / SECRET).write_text("secret")
    (tmp_path / "installation").write_text("x")
    # A worker that says so when it is asked to end.
    code = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); signal.pause()"
    command = [sys.executable, "-c", code]
    order = {
        "installation": {
            "name": "x",
            "mark": str(tmp_path / "installation"),
            "version": distribution_version("finetree-trainer"),
            "command": command,
        },
        "lead": former.mark,
        "folder": str(folder),
        "command": command,
        "variables": {},
        "threads": 1,
    }
    assert await host.start(order) == {"problem": "another replica of the trainer leads"}
    assert (folder / SECRET).exists()
    current = {"name": Leader.read(file).name, "file": str(file)}
    assert (await host.start(order | {"lead": current}))["problem"] == ""
    await host.signal(kill=True, lead=former.mark)
    waiting = asyncio.create_task(host.wait())
    await asyncio.wait([waiting], timeout=0.5)
    assert not waiting.done()
    await host.signal(kill=True, lead=current)
    await asyncio.wait_for(waiting, 60)


def test_the_driver_of_one_that_leads_no_more_ends_no_worker(former, file):
    ended: list[str] = []
    ray = SimpleNamespace(
        util=SimpleNamespace(list_named_actors=lambda: ["mine", "stray"]),
        get_actor=lambda name: name,
        kill=ended.append,
    )
    for lead, expected in ((former.mark, []), ({"name": Leader.read(file).name, "file": str(file)}, ["stray"])):
        driver = Driver.__new__(Driver)
        driver._ray, driver._lead = ray, lead
        driver.obey({"do": "keep", "workers": ["mine"]})
        assert ended == expected


def test_the_driver_of_one_that_leads_no_more_asks_for_no_node(former):
    driver = Driver.__new__(Driver)
    driver._lead, driver._bundles, driver._asked = former.mark, [{"CPU": 1.0}], (None, 0.0)
    driver.ask_for_nodes()
    driver.withdraw()
    assert driver._asked == (None, 0.0)
