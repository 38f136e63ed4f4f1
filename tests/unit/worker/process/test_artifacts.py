# SPDX-License-Identifier: Apache-2.0
"""An artifact's manifest: what it says, and that it is written once."""

import hashlib
import json
import threading

import pytest
from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.errors import StorageError
from finetree_worker.events.types import ArtifactReady
from finetree_worker.process.artifacts import MANIFEST, publish

TASK = worker_pb2.Task(job="projects/p/jobs/j", attempt=2, plan_digest="sha256:9")
COMPAT = [artifact_pb2.Compatibility(server="peft", loads=True)]


@pytest.fixture
def ready(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    contents = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights", "README": b"text"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    return ArtifactReady("adapter", str(folder), 99, files, "hub/base", "main", "f" * 64, "LORA", 10)


def test_the_manifest_says_what_the_event_says(ready, tmp_path):
    artifact = publish(ready, tmp_path / "adapter", TASK, COMPAT)
    content = (tmp_path / "adapter" / MANIFEST).read_bytes()
    assert artifact.sha256 == hashlib.sha256(content).hexdigest()
    manifest = json.loads(content)
    assert (manifest["name"], manifest["attempt"]) == ("projects/p/jobs/j/artifacts/adapter", "2")
    assert manifest["base"] == {"hub_id": "hub/base", "revision": "main", "fingerprint": "f" * 64}
    assert (artifact.kind, artifact.peft_type) == (artifact_pb2.ARTIFACT_KIND_ADAPTER, "LORA")
    assert (artifact.size_bytes, artifact.plan_digest) == (13, "sha256:9")
    assert [(file.path, file.size_bytes, file.media_type) for file in artifact.files] == [
        ("README", 4, "application/octet-stream"),
        ("adapter_config.json", 2, "application/json"),
        ("adapter_model.safetensors", 7, "application/vnd.safetensors"),
    ]
    assert artifact.compat[0].loads


def test_a_sealed_artifact_is_never_overwritten(ready, tmp_path):
    publish(ready, tmp_path / "adapter", TASK, COMPAT)
    before = (tmp_path / "adapter" / MANIFEST).read_bytes()
    with pytest.raises(StorageError) as refused:
        publish(ready, tmp_path / "adapter", worker_pb2.Task(job="projects/p/jobs/j", attempt=3), COMPAT)
    assert refused.value.reason == "ARTIFACT_EXISTS"
    assert (tmp_path / "adapter" / MANIFEST).read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "README",
        "adapter_config.json",
        "adapter_model.safetensors",
        MANIFEST,
    ]


def test_of_many_attempts_one_seals(ready, tmp_path):
    sealed, refused = [], []

    def attempt(number: int) -> None:
        task = worker_pb2.Task(job="projects/p/jobs/j", attempt=number)
        try:
            sealed.append(publish(ready, tmp_path / "adapter", task, COMPAT).attempt)
        except StorageError as error:
            refused.append(error.reason)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sealed) == 1
    assert set(refused) == {"ARTIFACT_EXISTS"}
    assert json.loads((tmp_path / "adapter" / MANIFEST).read_text())["attempt"] == str(sealed[0])
