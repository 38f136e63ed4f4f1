# SPDX-License-Identifier: Apache-2.0
"""An artifact's manifest: what it says, and that it is written once."""

import hashlib
import json
import threading

import pytest
from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import serving_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.atomic_files import atomic_folder
from finetree_worker.errors import StorageError
from finetree_worker.process.artifacts import MANIFEST, seal

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights", "README": b"text"}


def task_of(folder, attempt):
    folders = worker_pb2.TaskFolders(artifact_dir=str(folder))
    return worker_pb2.Task(job="projects/p/jobs/j", attempt=attempt, plan_digest="sha256:9", folders=folders)


@pytest.fixture
def ready(tmp_path):
    with atomic_folder(tmp_path / "adapter", {}) as draft:
        for name, content in FILES.items():
            (draft / name).write_bytes(content)
    return artifact_pb2.Artifact(
        name="projects/p/jobs/j/artifacts/adapter",
        kind=artifact_pb2.ARTIFACT_KIND_ADAPTER,
        peft_type="LORA",
        base=artifact_pb2.ArtifactBase(hub_id="hub/base", revision="main", fingerprint="f" * 64),
        compat=[artifact_pb2.Compatibility(server=serving_pb2.SERVING_TARGET_TRANSFORMERS, loads=True)],
    )


def test_the_manifest_says_what_the_event_says(ready, tmp_path):
    artifact = seal(ready, task_of(tmp_path, 2))
    content = (tmp_path / "adapter" / MANIFEST).read_bytes()
    assert artifact.sha256 == hashlib.sha256(content).hexdigest()
    manifest = json.loads(content)
    assert (manifest["name"], manifest["attempt"]) == ("projects/p/jobs/j/artifacts/adapter", 2)
    assert manifest["base"] == {"hub_id": "hub/base", "revision": "main", "fingerprint": "f" * 64}
    assert (artifact.kind, artifact.peft_type) == (artifact_pb2.ARTIFACT_KIND_ADAPTER, "LORA")
    assert (artifact.size_bytes, artifact.plan_digest) == (13, "sha256:9")
    assert [(file.path, file.size_bytes, file.media_type) for file in artifact.files] == [
        ("README", 4, "application/octet-stream"),
        ("adapter_config.json", 2, "application/json"),
        ("adapter_model.safetensors", 7, "application/vnd.safetensors"),
    ]
    assert {file.path: file.sha256 for file in artifact.files} == {
        name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()
    }
    assert artifact.compat[0].loads


def test_a_sealed_artifact_is_never_overwritten(ready, tmp_path):
    seal(ready, task_of(tmp_path, 2))
    before = (tmp_path / "adapter" / MANIFEST).read_bytes()
    with pytest.raises(StorageError) as refused:
        seal(ready, task_of(tmp_path, 3))
    assert refused.value.reason == "OUTPUT_EXISTS"
    assert (tmp_path / "adapter" / MANIFEST).read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "README",
        "adapter_config.json",
        "adapter_model.safetensors",
        MANIFEST,
        "manifest.json",
    ]


def test_of_many_attempts_one_seals(ready, tmp_path):
    sealed, refused = [], []

    def attempt(number: int) -> None:
        try:
            sealed.append(seal(ready, task_of(tmp_path, number)).attempt)
        except StorageError as error:
            refused.append(error.reason)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sealed) == 1
    assert set(refused) == {"OUTPUT_EXISTS"}
    assert json.loads((tmp_path / "adapter" / MANIFEST).read_text())["attempt"] == sealed[0]
