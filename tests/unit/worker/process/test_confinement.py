# SPDX-License-Identifier: Apache-2.0
"""Which files a worker keeps for a task of each kind."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from finetree_api.trainer.v1 import evaluation_pb2, job_pb2, serving_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.confinement.policy import Policy
from finetree_worker.process.confinement import confine_process, confine_to_task

POLICY = Policy(read=("/models", "/d/datasets"), write=("/d/jobs", "/d/tokens", "/d/models"))


@dataclass
class Recorded:
    """Stands for a Confinement; a process can be confined only once."""

    policy: Policy = POLICY
    narrowed: dict[str, Any] = field(default_factory=dict)

    def narrow(self, **files: Any) -> None:
        self.narrowed = files


def files(model: Path, **task: Any) -> tuple[set[str], set[str], bool]:
    folders = worker_pb2.TaskFolders(work_dir="/d/jobs/j/attempts/1", token_cache_dir="/d/tokens")
    given = worker_pb2.Task(folders=folders, base=worker_pb2.TaskBaseModel(model_dir=str(model)), **task)
    recorded = Recorded()
    confine_to_task(recorded, given)
    narrowed = recorded.narrowed
    return set(narrowed["read"]), set(narrowed["write"]), narrowed["job"]


def test_a_training_has_its_inputs_its_job_and_the_token_cache(tmp_path):
    weights = [worker_pb2.TaskWeights(folder="/d/jobs/other/attempts/1/artifacts/adapter")]
    read, write, job = files(tmp_path, train=job_pb2.TrainTask(), dataset_file="/d/datasets/x.jsonl", weights=weights)
    assert read == {str(tmp_path), "/d/datasets/x.jsonl", weights[0].folder}
    assert write == {"/d/jobs/j", "/d/tokens"}
    assert job


def test_what_links_in_a_model_lead_to_can_be_read_and_not_more(tmp_path):
    blob, model = tmp_path / "blobs/abc", tmp_path / "snapshots/main"
    blob.parent.mkdir()
    blob.touch()
    model.mkdir(parents=True)
    (model / "model.safetensors").symlink_to(blob)
    read, _, _ = files(model, train=job_pb2.TrainTask())
    assert read == {str(model), str(blob)}


def test_a_worker_that_may_rest_keeps_the_folders_of_the_next_job_and_no_model_to_write(tmp_path):
    read, write, job = files(tmp_path, train=job_pb2.TrainTask(), may_rest=True)
    assert "/d/models" in read
    assert write == {"/d/jobs", "/d/tokens"}
    assert not job


def test_a_preparation_writes_models_and_reads_no_other_job(tmp_path):
    read, write, job = files(tmp_path, prepare=job_pb2.PrepareTask())
    assert "/d/models" in write
    assert not {"/d/jobs"} & (read | write)
    assert job


def test_a_serving_worker_reads_adapters_of_other_jobs_and_writes_its_own_folder(tmp_path):
    read, write, job = files(tmp_path, serve=serving_pb2.ServeTask())
    assert "/d/jobs" in read
    assert write == {"/d/jobs/j"}
    assert not job


@pytest.mark.parametrize("kind", ["evaluate", "export"])
def test_measuring_and_exporting_write_no_model(tmp_path, kind):
    message = {"evaluate": evaluation_pb2.EvaluateTask, "export": job_pb2.ExportTask}[kind]()
    read, write, _ = files(tmp_path, **{kind: message})
    assert read == {str(tmp_path)}
    assert write == {"/d/jobs/j", "/d/tokens"}


def test_a_process_without_a_policy_is_not_confined():
    assert confine_process({}) is None
