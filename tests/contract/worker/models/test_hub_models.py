# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN003, ANN204 - the arguments are those of what is called
"""Models of a hub, fetched by the real `huggingface_hub` from a hub on loopback."""

import json
import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_worker.control import Signal
from finetree_worker.errors import Cancelled, ModelError, StorageError
from hub_server import COMMIT, Repo

ID = "acme/Tiny"


class Collected:
    def __init__(self) -> None:
        self.events = []

    def emit(self, event, **_) -> None:
        self.events.append(event)


class Control:
    """Cancels once it has been asked so often."""

    def __init__(self, cancel_after: int = 10**9) -> None:
        self.left = cancel_after

    def poll(self) -> Signal:
        self.left -= 1
        return Signal.CANCEL if self.left < 0 else Signal.NONE


class Pulling:
    """Pulls into one folder; the newest reporter is `seen`."""

    def __init__(self, hub, home) -> None:
        self.hub, self.home, self.seen = hub, home, Collected()

    def __call__(self, revision="main", model=ID, control=None, **access):
        from finetree_worker.models.hub import Access
        from finetree_worker.models.hub_models import prepare_hub_model

        self.seen = Collected()
        given = Access(**{"endpoint": self.hub.url, **access})
        origin, control = f"hub:{model}@{revision}", control or Control()
        return prepare_hub_model(origin, self.home, given, reporter=self.seen, control=control)

    def refused(self, kind, **how):
        with pytest.raises(kind) as error:
            self(**how)
        return error.value


@pytest.fixture
def pull(hub, tmp_path, model_files, monkeypatch):
    # Small pieces, so that a small model's download can be cut in the midst of a file.
    monkeypatch.setattr("finetree_worker.models.hub.CHUNK_BYTES", 1000)
    hub.repos[ID] = Repo(dict(model_files))
    return Pulling(hub, tmp_path / "acme--tiny")


def left(home) -> list[str]:
    return sorted(path.name for path in home.rglob("*")) if home.exists() else []


def test_a_model_is_fetched_whole_with_progress_in_bytes_and_named_by_its_commit(pull, model_files):
    pull.hub.repos[ID].files |= {"README.md": b"text", "modeling_tiny.py": b"raise SystemExit", "onnx/model.onnx": b"x"}
    base = pull()
    assert (base.folder.name, base.hub_id, base.revision) == (COMMIT, ID, COMMIT)
    manifest = json.loads((base.folder / "manifest.json").read_text())
    assert manifest["files"].keys() == model_files.keys()
    assert {name: (base.folder / name).read_bytes() for name in model_files} == model_files
    assert json.loads((pull.home / "refs.json").read_text()) == {"main": COMMIT}
    progress = [event for event in pull.seen.events if isinstance(event, event_pb2.PhaseProgress)]
    counted = [event for event in progress if event.unit == event_pb2.PROGRESS_UNIT_BYTES]
    assert {event.phase for event in progress} == {job_pb2.JOB_PHASE_DOWNLOAD_MODEL}
    assert [event.done for event in counted] == sorted(event.done for event in counted)
    assert counted[-1].done == counted[-1].total == sum(map(len, model_files.values()))
    assert progress[-1].fraction == 1.0


def test_a_fetched_model_is_not_fetched_again_and_its_commit_is_not_even_asked_for(pull):
    pull()
    pull.hub.requests.clear()
    pull()
    assert [request.path for request in pull.hub.requests] == [f"/api/models/{ID}/revision/main"]
    pull.hub.requests.clear()
    assert pull(revision=COMMIT).revision == COMMIT
    assert not pull.hub.requests


def test_a_branch_that_moved_on_gives_its_new_commit_beside_the_old_one(pull):
    old = pull().folder
    pull.hub.repos[ID].commit = "f" * 40
    new = pull().folder
    assert new.name == "f" * 40
    assert old.is_dir()
    assert json.loads((pull.home / "refs.json").read_text()) == {"main": "f" * 40}


def test_a_stopped_download_goes_on_where_it_was(pull, model_files):
    largest = max((name for name in model_files if name.endswith(".safetensors")), key=lambda n: len(model_files[n]))
    before = sum(len(content) for name, content in model_files.items() if not name.endswith(".safetensors"))
    with pytest.raises(Cancelled):
        # Every piece of 1000 bytes asks the control, so this stops in the midst of the first shard.
        pull(control=Control(cancel_after=before // 1000 + 20))
    partial = pull.home / f".{COMMIT}.partial"
    cut = next(partial.glob("*.part"))
    assert cut.name == f"{largest}.part"
    present = cut.stat().st_size
    assert 0 < present < len(model_files[largest])
    pull.hub.requests.clear()
    base = pull()
    assert pull.hub.transfers(largest) == [f"bytes={present}-"]
    assert not pull.hub.transfers("config.json")
    assert (base.folder / largest).read_bytes() == model_files[largest]
    assert not partial.exists()


def test_a_connection_that_breaks_is_taken_up_again_where_it_broke(pull, model_files):
    pull.hub.cut_after = 20_000
    base = pull()
    ranges = [request.range for request in pull.hub.requests if request.range]
    assert ranges == ["bytes=20000-"]
    assert {name: (base.folder / name).read_bytes() for name in model_files} == model_files


def test_a_file_that_is_not_what_the_hub_says_is_removed_and_fetched_anew_by_the_next_try(pull):
    repo = pull.hub.repos[ID]
    shard = next(name for name in repo.files if name.endswith(".safetensors"))
    repo.hashes[shard] = "0" * 64
    error = pull.refused(Exception)
    assert (error.reason, error.retryable) == ("MODEL_CORRUPT", True)
    assert not (pull.home / COMMIT).exists()
    repo.hashes.clear()
    pull.hub.requests.clear()
    assert pull().folder.is_dir()
    assert pull.hub.transfers(shard) == [""]


def test_gated_absent_and_unreachable_are_three_reasons(pull):
    repo = pull.hub.repos[ID]
    repo.gated = True
    gated = pull.refused(ModelError)
    refused = pull.refused(ModelError, token="not-granted")
    assert gated.reason == refused.reason == "MODEL_GATED"
    absent = pull.refused(ModelError, model="acme/nothing")
    assert (absent.reason, absent.field) == ("MODEL_NOT_FOUND", "model.hub.id")
    revision = pull.refused(ModelError, revision="v9")
    assert (revision.reason, revision.field) == ("MODEL_REVISION_NOT_FOUND", "model.hub.revision")
    pull.hub.status = 503
    down = pull.refused(Exception)
    assert (down.reason, down.retryable) == ("HUB_UNREACHABLE", True)
    pull.hub.status = 0
    nobody = pull.refused(Exception, endpoint="http://127.0.0.1:1")
    assert nobody.reason == "HUB_UNREACHABLE"
    offline = pull.refused(Exception, offline=True)
    assert (offline.reason, offline.retryable) == ("HUB_OFFLINE", False)
    assert left(pull.home) == []


def test_the_services_token_opens_gated_and_private_models_and_is_in_no_message(pull):
    repo = pull.hub.repos[ID]
    repo.gated = repo.private = True
    assert pull.refused(ModelError).reason == "MODEL_NOT_FOUND"
    base = pull(token=pull.hub.token)
    assert {request.token for request in pull.hub.requests[1:]} == {pull.hub.token}
    assert pull.hub.token not in repr(pull.seen.events)
    assert not [path for path in base.folder.parent.rglob("*") if path.is_file() and b"hub-secret" in path.read_bytes()]


def test_a_token_of_the_machine_is_not_used(pull, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "of-the-machine")
    pull()
    assert {request.token for request in pull.hub.requests} == {""}


def test_what_is_here_is_used_when_the_hub_is_not_there_and_that_is_said(pull):
    folder = pull().folder
    pull.hub.status = 503
    assert pull().folder == folder
    assert [event.code for event in pull.seen.events if isinstance(event, event_pb2.Alert)] == [
        "MODEL_REVISION_NOT_CHECKED"
    ]
    assert pull(offline=True).folder == folder


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model.safetensors.index.json": None, "pytorch_model.bin": b"pickle"}, "MODEL_PICKLED"),
        ({"config.json": None}, "MODEL_INCOMPLETE"),
        ({"config.json": None, "adapter_config.json": b"{}"}, "MODEL_IS_ADAPTER"),
        ({"config.json": b'{"model_type": "tiny9", "auto_map": {"AutoModel": "m.M"}}'}, "MODEL_REMOTE_CODE"),
        ({"config.json": b'{"model_type": "vit"}'}, "MODEL_ARCHITECTURE_UNSUPPORTED"),
        (
            {"config.json": b'{"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}'},
            "MODEL_QUANTIZED",
        ),
        ({"config.json": b"{"}, "MODEL_UNREADABLE"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_its_weights_are_fetched_and_leaves_nothing(pull, change, reason):
    files = pull.hub.repos[ID].files
    for name, content in change.items():
        files.pop(name, None)
        if content is not None:
            files[name] = content
    assert pull.refused(ModelError).reason == reason
    assert not [request for request in pull.hub.requests if request.path.endswith((".safetensors", ".bin"))]
    assert left(pull.home) == []


def test_a_shard_that_the_index_names_and_the_hub_lacks_is_refused_and_leaves_nothing(pull):
    shard = next(name for name in pull.hub.repos[ID].files if name.endswith(".safetensors"))
    del pull.hub.repos[ID].files[shard]
    error = pull.refused(ModelError)
    assert error.reason == "MODEL_INCOMPLETE"
    assert shard in error.message
    assert left(pull.home) == []


def test_a_model_for_which_the_disk_is_too_small_is_refused_with_numbers_before_anything_is_written(pull, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=10**10))
    shard = next(name for name in pull.hub.repos[ID].files if name.endswith(".safetensors"))
    pull.hub.repos[ID].sizes[shard] = 140 * 10**9
    error = pull.refused(StorageError, reserve_bytes=10**9)
    assert (error.reason, error.retryable) == ("DISK_FULL", False)
    assert all(text in error.message for text in ("140.00 GB", "10.00 GB", "1.00 GB"))
    assert left(pull.home) == []
    assert not [request for request in pull.hub.requests if "/resolve/" in request.path]


def test_a_proxy_on_the_way_to_the_hub_is_used_and_forgotten(pull, monkeypatch):
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    # Nobody answers under that name: only what the proxy hands out can arrive.
    assert pull(endpoint="http://hub.invalid", proxy=pull.hub.url).revision == COMMIT
    assert "HTTP_PROXY" not in os.environ


def test_files_whose_sizes_the_hub_does_not_tell_are_fetched_whole(pull, model_files):
    pull.hub.repos[ID].sizes = dict.fromkeys(model_files, 0)
    base = pull()
    assert {name: (base.folder / name).read_bytes() for name in model_files} == model_files


FETCH = """
import sys
from pathlib import Path
from finetree_worker.models import hub
hub.CHUNK_BYTES = 10_000
url, name, commit, target, size = sys.argv[1:]
with hub.online():
    hub.Client(hub.Access(url), "acme/Tiny", "main").download(
        name, Path(target), commit=commit, size=int(size), on_bytes=lambda count: None
    )
"""


def test_a_download_whose_process_is_killed_goes_on_where_it_was(pull, tmp_path):
    from finetree_worker.models.hub import Access, Client, online

    content = bytes(range(256)) * 400
    pull.hub.repos[ID].files["large.safetensors"] = content
    pull.hub.stall_after = 50_000
    target = tmp_path / "large.part"
    words = (pull.hub.url, "large.safetensors", COMMIT, str(target), str(len(content)))
    process = subprocess.Popen([sys.executable, "-c", FETCH, *words])
    deadline = time.monotonic() + 60
    while not target.exists() or target.stat().st_size < 40_000:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    present = target.stat().st_size
    with online():
        Client(Access(pull.hub.url), ID, "main").download(
            words[1], target, commit=COMMIT, size=len(content), on_bytes=lambda _count: None
        )
    assert pull.hub.transfers("large.safetensors") == ["", f"bytes={present}-"]
    assert target.read_bytes() == content
