# SPDX-License-Identifier: Apache-2.0
"""What a trainer lets its workers touch, and what becomes of a system that does not allow the measures."""

from pathlib import Path

import pytest
from finetree_api.trainer.v1 import capacity_pb2, job_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.confinement import measures
from finetree_data.confinement.measures import Measure, State
from finetree_data.confinement.policy import Policy
from finetree_runtime.config.settings import SettingsError
from finetree_trainer.layout import Layout
from finetree_trainer.settings import Settings
from finetree_trainer.worker_user import WorkerUser
from finetree_trainer.workers import confinement
from finetree_trainer.workers.confinement import WorkerConfinement

USER = WorkerUser("trainee", 54321, 54322)
HUB = worker_pb2.Task(prepare=job_pb2.PrepareTask(), hub=worker_pb2.HubAccess(endpoint="https://hub.example"))


def confining(folder: Path, **settings: object) -> WorkerConfinement:
    return WorkerConfinement(Settings(data_dir=folder, **settings), Layout(folder))


def tried(monkeypatch: pytest.MonkeyPatch, *found: Measure) -> None:
    """Have the system allow these measures."""

    async def attempt(policy: Policy) -> confinement._Tried | None:
        return confinement._Tried(found) if policy.namespace and found else None

    monkeypatch.setattr(confinement, "_try", attempt)


def test_a_worker_may_touch_inputs_and_jobs_and_neither_the_database_nor_its_own_process_note(tmp_path):
    roots = {"model_roots": ("/models",), "data_roots": ("/rows",)}
    worker = tmp_path / "workers/w"
    environment = confining(tmp_path, **roots).environment(worker, network=False, threads=1)
    policy = Policy.take(environment)
    assert policy is not None
    touched = {*policy.read, *policy.write, policy.temporary}
    assert touched == {
        *("/models", "/rows", str(tmp_path / "datasets")),
        *(str(tmp_path / name) for name in ("jobs", "tokens", "models")),
        str(worker / "tmp"),
    }
    assert environment["TMPDIR"] == str(worker / "tmp")
    assert not policy.network
    # A folder that is made later is in no rule.
    assert all(Path(folder).is_dir() for folder in policy.write)


def test_only_a_download_gets_a_worker_with_a_network(tmp_path):
    confined = confining(tmp_path)
    assert confined.needs_network(HUB)
    assert not confined.needs_network(worker_pb2.Task(train=job_pb2.TrainTask()))
    assert not confined.needs_network(None)
    policy = Policy.take(confined.environment(tmp_path / "w", network=True, threads=1))
    assert policy is not None
    assert policy.network
    assert not policy.namespace


async def test_off_confines_nothing_and_says_so(tmp_path):
    confined = confining(tmp_path, confinement="off")
    await confined.probe()
    assert Policy.take(confined.environment(tmp_path / "w", network=False, threads=1)) is None
    assert not confined.needs_network(HUB)
    assert {measure.state for measure in confined.describe()} == {capacity_pb2.CONFINEMENT_STATE_OFF}


async def test_required_does_not_start_where_a_measure_is_missing_and_auto_does(tmp_path, monkeypatch):
    tried(monkeypatch, Measure(measures.FILES, State.UNAVAILABLE, "this kernel has no Landlock, or it is off"))
    with pytest.raises(SettingsError, match=r"files: this kernel has no Landlock") as caught:
        await confining(tmp_path, confinement="required").probe()
    assert caught.value.reason == "CONFINEMENT_UNAVAILABLE"
    confined = confining(tmp_path)
    await confined.probe()
    shown = {measure.name: measure for measure in confined.describe()}
    assert shown["files"].state == capacity_pb2.CONFINEMENT_STATE_UNAVAILABLE
    assert shown["files"].why == "this kernel has no Landlock, or it is off"


async def test_a_newer_kernel_is_not_required(tmp_path, monkeypatch):
    tried(monkeypatch, Measure(measures.UNIX_SOCKETS, State.UNAVAILABLE, "it needs Landlock 9, this kernel has 7"))
    await confining(tmp_path, confinement="required").probe()


async def test_a_namespace_is_entered_only_where_that_was_tried(tmp_path, monkeypatch):
    for state in (State.HOLDS, State.UNAVAILABLE):
        tried(monkeypatch, Measure(measures.NETWORK_NAMESPACE, state, "x"))
        confined = confining(tmp_path)
        await confined.probe()
        policy = Policy.take(confined.environment(tmp_path / "w", network=False, threads=1))
        assert policy is not None
        assert policy.namespace is (state is State.HOLDS)


async def test_a_system_that_cannot_even_be_asked_has_nothing(tmp_path, monkeypatch):
    tried(monkeypatch)
    confined = confining(tmp_path)
    await confined.probe()
    assert {measure.state for measure in confined.measures} == {State.UNAVAILABLE}


class OfUser(WorkerConfinement):
    """Confines workers that run as another user, without the root that makes their folders."""

    def __init__(self, folder: Path, **settings: object) -> None:
        super().__init__(Settings(data_dir=folder, **settings), Layout(folder))
        self.layout = Layout(folder, USER)


def test_a_worker_of_another_user_becomes_that_user_and_has_no_home_of_the_service(tmp_path):
    for settings in ({}, {"confinement": "off"}):
        environment = OfUser(tmp_path, **settings).environment(tmp_path / "w", network=False, threads=1)
        policy = Policy.take(environment)
        assert policy is not None
        assert (policy.user, policy.group) == (USER.uid, USER.gid)
        assert policy.user_alone is bool(settings)
        assert environment["HOME"] == environment["TMPDIR"] == str(tmp_path / "w/tmp")
        assert environment["USER"] == environment["LOGNAME"] == "trainee"


@pytest.mark.parametrize(
    ("closed", "said"),
    [
        ("models-root", "user trainee cannot read {}/models-root of model_roots; let it read the folder"),
        ("rows-root", "user trainee cannot read {}/rows-root of data_roots"),
        (
            "data/models",
            "user trainee cannot reach data_dir; let everybody pass through the folders above it (mode 711)",
        ),
        ("python", "user trainee cannot read the Python that this service runs in, or its packages"),
    ],
)
async def test_a_folder_that_is_closed_to_the_user_ends_the_start(tmp_path, monkeypatch, closed, said):
    async def attempt(policy: Policy) -> confinement._Tried | None:
        found = [Measure(measures.USER, State.HOLDS)]
        return confinement._Tried(found, [str(tmp_path / closed)]) if policy.user == USER.uid else None

    monkeypatch.setattr(confinement, "_try", attempt)
    roots = {"model_roots": (str(tmp_path / "models-root"),), "data_roots": (str(tmp_path / "rows-root"),)}
    with pytest.raises(SettingsError) as caught:
        await OfUser(tmp_path / "data", **roots).probe()
    assert caught.value.reason == "WORKER_USER_UNUSABLE"
    assert said.format(tmp_path) in str(caught.value)
    # Nothing of where this installation is.
    assert closed.startswith(("models-", "rows-")) or str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("settings", [{}, {"confinement": "off"}])
async def test_a_system_that_does_not_let_a_worker_become_the_user_ends_the_start(tmp_path, monkeypatch, settings):
    tried(monkeypatch)
    with pytest.raises(SettingsError, match="a process could not become this user") as caught:
        await OfUser(tmp_path, **settings).probe()
    assert caught.value.reason == "WORKER_USER_UNUSABLE"


async def test_the_user_is_shown_also_where_nothing_else_is_confined(tmp_path, monkeypatch):
    async def attempt(policy: Policy) -> confinement._Tried:
        assert policy.user_alone
        return confinement._Tried([Measure(measures.USER, State.HOLDS)])

    monkeypatch.setattr(confinement, "_try", attempt)
    confined = OfUser(tmp_path, confinement="off")
    await confined.probe()
    states = {measure.name: measure.state for measure in confined.describe()}
    assert states.pop("own_user") == capacity_pb2.CONFINEMENT_STATE_HOLDS
    assert set(states.values()) == {capacity_pb2.CONFINEMENT_STATE_OFF}
