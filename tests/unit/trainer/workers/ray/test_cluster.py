# SPDX-License-Identifier: Apache-2.0
"""What a trainer with a cluster is refused for at its start, and how it talks to the driver."""

from pathlib import Path
from typing import Any

import pytest
from finetree_runtime.config.settings import SettingsError
from finetree_trainer.layout import Layout
from finetree_trainer.scheduling.devices import Slot
from finetree_trainer.settings import Settings
from finetree_trainer.workers.confinement import WorkerConfinement
from finetree_trainer.workers.launch.launcher import Order
from finetree_trainer.workers.process import Liveness
from finetree_trainer.workers.ray.cluster import RayCluster, _installation_name, custom_resources, require
from held_port import held_port

GIVEN = {"launcher": "ray", "ray_address": "10.0.0.1:6379", "worker_address": "127.0.0.1:50060"}


@pytest.mark.parametrize(
    ("changes", "reason", "named"),
    [
        ({"ray_address": ""}, "SETTING_MISSING", "ray_address"),
        ({"worker_address": ""}, "SETTING_MISSING", "worker_address"),
        ({"ray_resources": ("big=none",)}, "SETTING_INVALID", "ray_resources"),
        ({"worker_ca": Path("ca.pem")}, "TLS_INCOMPLETE", "worker_ca"),
        ({"worker_user": "nobody"}, "WORKER_USER_UNUSABLE", "worker_user"),
        ({"worker_address": "10.0.0.1:50060"}, "INSECURE_ADDRESS", "--worker-ca"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], reason: str, named: str):
    with pytest.raises(SettingsError, match=named) as refused:
        require(Settings(**GIVEN | changes))
    assert refused.value.reason == reason


def test_settings_that_go_together_are_taken(tmp_path):
    require(Settings(**GIVEN, ray_resources=("big=2", "near")))
    require(Settings(worker_user="nobody"))
    tls = {"tls_cert": Path("c"), "tls_key": Path("k"), "worker_ca": tmp_path / "ca.pem"}
    with pytest.raises(SettingsError, match="worker_ca"):
        require(Settings(**GIVEN | tls))
    tls["worker_ca"].touch()
    require(Settings(**GIVEN | {"worker_address": "10.0.0.1:50060"} | tls))
    assert custom_resources(("big=2", "near")) == {"big": 2.0, "near": 1.0}


@pytest.fixture
def cluster(tmp_path):
    """A cluster of which nothing answers."""
    settings = Settings(
        **GIVEN | {"ray_address": f"127.0.0.1:{held_port()}"},
        data_dir=tmp_path,
        confinement="off",
        worker_command=("worker",),
    )
    layout = Layout(tmp_path)
    return RayCluster(settings, layout, WorkerConfinement(settings, layout), clock=lambda: 0)


async def test_an_address_that_does_not_answer_is_refused(cluster, tmp_path):
    for _ in range(2):  # with the name that the first try has given the folder
        with pytest.raises(SettingsError, match="no Ray cluster answers at") as refused:
            await cluster.open()
        assert refused.value.reason == "RAY_UNREACHABLE"
        await cluster.close()
    assert len((tmp_path / "installation").read_text()) == 16


async def test_nothing_is_started_while_nothing_is_known(cluster, tmp_path):
    folder = tmp_path / "workers" / "w"
    process = cluster.start(folder, Order("secret", {}, (Slot("a", "cpu", 0),)))
    assert process.dead.is_set()
    assert not folder.exists(), "a secret is written where a worker reads it alone"
    alive, found = cluster.find(folder, 7)
    assert alive is Liveness.UNKNOWN
    assert found is not None
    assert not found.dead.is_set()


async def test_a_replica_that_follows_ends_no_worker_and_one_that_leads_ends_what_it_does_not_know(
    cluster, tmp_path, monkeypatch
):
    said: list[Any] = []
    monkeypatch.setattr(cluster, "_say", said.append)
    cluster.find(tmp_path / "workers" / "w", 7)
    assert said == []
    cluster.lead()
    assert said == [{"do": "keep", "workers": ["w"]}, {"do": "watch", "worker": "w"}]


def test_two_replicas_that_begin_at_once_give_the_folder_one_name(tmp_path, monkeypatch):
    file = tmp_path / "installation"
    # The other one was first, between the look and the name.
    monkeypatch.setattr(Path, "exists", lambda _file: False)
    names = {_installation_name(file) for _ in range(2)}
    assert names == {file.read_text()}
    assert list(tmp_path.iterdir()) == [file]
