# SPDX-License-Identifier: Apache-2.0
"""The lineage of a task's artifacts: the service's part, the versions here, and the hash of what is read."""

import hashlib
import json

import pytest
from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import training_data_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.errors import DamagedDataError
from finetree_worker.process.artifacts import seal
from finetree_worker.process.lineage import of_task, require_rows

TRAIN, HELD_OUT = training_data_pb2.SPLIT_TRAIN, training_data_pb2.SPLIT_EVALUATION


def task_of(tmp_path) -> worker_pb2.Task:
    (tmp_path / "rows.jsonl").write_bytes(b"rows")
    task = worker_pb2.Task(dataset_file=str(tmp_path / "rows.jsonl"), evaluation_file=str(tmp_path / "gone.jsonl"))
    task.folders.artifact_dir = str(tmp_path)
    task.lineage.versions["finetree-trainer"] = "1.0"
    task.lineage.parents.add(name="projects/p/jobs/a/artifacts/adapter", sha256="a" * 64, job="projects/p/jobs/a")
    task.lineage.datasets.add(split=TRAIN, name="rows.jsonl")
    task.lineage.datasets.add(split=HELD_OUT, name="gone.jsonl")
    task.lineage.base.hub_id = "acme/tiny"
    return task


def test_a_file_that_is_named_by_path_is_hashed_and_versions_are_added(tmp_path):
    task = task_of(tmp_path)
    found = of_task(task)
    assert [each.sha256 for each in found.datasets] == [hashlib.sha256(b"rows").hexdigest(), ""]
    assert {"finetree-trainer", "finetree-worker", "torch", "transformers", "peft", "python"} <= found.versions.keys()
    assert found.parents == task.lineage.parents
    task.lineage.datasets[0].sha256 = "b" * 64
    assert of_task(task).datasets[0].sha256 == "b" * 64, "an upload is kept under its hash"


def test_the_manifest_of_an_artifact_has_its_lineage(tmp_path):
    task = task_of(tmp_path)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/manifest.json").write_text('{"files": {}}')
    base = artifact_pb2.ArtifactBase(hub_id="acme/tiny", fingerprint="f" * 64)
    sealed = seal(artifact_pb2.Artifact(name="projects/p/jobs/b/artifacts/adapter", base=base), task, of_task(task))
    written = json.loads((tmp_path / "adapter/finetree.json").read_text())["lineage"]
    assert written["parents"][0]["sha256"] == "a" * 64
    assert written["datasets"][0]["sha256"] == hashlib.sha256(b"rows").hexdigest()
    assert written["base"] == {"hub_id": "acme/tiny", "fingerprint": "f" * 64}
    assert written["versions"]["torch"] == sealed.lineage.versions["torch"]


def test_an_upload_that_is_damaged_on_the_disk_is_named_and_not_read(tmp_path):
    task = task_of(tmp_path)
    require_rows(
        task
    )  # a file that is named by path has no hash to compare with, and one that is gone is another's word
    task.lineage.datasets[0].sha256 = hashlib.sha256(b"rows").hexdigest()
    require_rows(task)
    for bit in range(8 * len(b"rows")):
        damaged = bytearray(b"rows")
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / "rows.jsonl").write_bytes(damaged)
        with pytest.raises(DamagedDataError, match=r"The file of rows\.jsonl is damaged") as refused:
            require_rows(task)
        assert refused.value.reason == "DATASET_DAMAGED"
