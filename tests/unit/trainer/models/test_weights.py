# SPDX-License-Identifier: Apache-2.0
"""Trained weights are located where they are, and refused by the field and the reason where they are not."""

import asyncio
import json

import pytest
from finetree_api.trainer.v1 import artifact_pb2, job_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2, weights_pb2
from finetree_runtime.errors import DomainError
from finetree_trainer.layout import Layout
from finetree_trainer.models.locate import BaseModel, Models
from finetree_trainer.models.weights import WeightsLocator, require_base, whole_steps
from finetree_trainer.objects.copies import Copies
from finetree_trainer.store import artifacts, jobs
from weight_files import base_model, checkpoint, peft_adapter

SPEC = run_spec_pb2.RunSpec(lora=method_pb2.Lora(rank=2))
SPEC.model.path = "base"
JOB = "projects/p/jobs/j1"


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "data")


@pytest.fixture
def root(tmp_path):
    base_model(tmp_path / "root" / "base")
    return tmp_path / "root"


@pytest.fixture
def locate(store, layout, root, new_row, create_job):
    """Locates weights that the caller of project p names, with the artifacts that a test adds to job j1."""
    record = job_pb2.Job(uid="j1", name=JOB, train=job_pb2.TrainTask(spec=SPEC))
    record.base.hub_id = "org/base"
    create_job(new_row(record=record.SerializeToString()))
    locator = WeightsLocator(store, layout, Models(layout.models, (str(root),)), Copies(layout, None))

    def run(project="p", **source):  # noqa: ANN003, ANN202 - a field of TrainedWeights
        return asyncio.run(locator.locate(project, weights_pb2.TrainedWeights(**source), "job.init"))

    return run


@pytest.fixture
def add_artifact(store, layout):
    """Register an artifact of job j1 whose folder is there."""

    def add(name, folder, kind=artifact_pb2.ARTIFACT_KIND_ADAPTER):  # noqa: ANN202
        files = [artifact_pb2.ArtifactFile(path=file.name, size_bytes=file.stat().st_size) for file in folder.iterdir()]
        made = artifact_pb2.Artifact(name=f"{JOB}/artifacts/{name}", kind=kind, sha256="a" * 64, files=files, attempt=1)
        made.base.hub_id = "org/base"
        record = made.SerializeToString()
        store.submit(lambda c: artifacts.put(c, "j1", name, attempt=1, record=record, now=1)).result()
        place = layout.artifacts("j1", 1)
        place.mkdir(parents=True, exist_ok=True)
        return folder.rename(place / name)

    return add


def refused(locate, **source):  # noqa: ANN003 - a field of TrainedWeights
    with pytest.raises(DomainError) as found:
        locate(**source)
    return found.value


def test_an_artifact_is_located_with_the_run_that_made_it(locate, add_artifact, tmp_path):
    folder = add_artifact("adapter", peft_adapter(tmp_path / "made"))
    found = locate(artifact=f"{JOB}/artifacts/adapter")
    assert (found.folder, found.name, found.sha256) == (folder, f"{JOB}/artifacts/adapter", "a" * 64)
    assert (found.kind, found.spec, found.checkpoint) == (artifact_pb2.ARTIFACT_KIND_ADAPTER, SPEC, False)
    assert found.base.hub_id == "org/base"
    message = found.message("init_from")
    assert (message.name, message.folder, message.spec, message.base.hub_id) == (
        *("init_from", str(folder)),
        *(SPEC, "org/base"),
    )
    assert locate(artifact="j1/artifacts/adapter").name == found.name, "an id alone is of the caller's project"


def test_a_checkpoint_is_located_by_its_step(locate, layout):
    folder = checkpoint(layout.checkpoints("j1"), 20)
    found = locate(checkpoint=f"{JOB}/checkpoints/20")
    assert (found.folder, found.checkpoint, found.spec) == (folder, True, SPEC)
    assert found.kind == artifact_pb2.ARTIFACT_KIND_ADAPTER
    assert len(found.base.fingerprint) == 64


def test_an_adapter_folder_is_located_under_a_root(locate, root):
    folder = peft_adapter(root / "mine", base_model_name_or_path="org/base")
    found = locate(path="mine")
    assert (found.folder, found.spec, found.base.hub_id) == (folder, None, "org/base")
    assert locate(path="mine", sha256=found.sha256) == found


def test_what_is_not_there_is_not_found(locate, layout, add_artifact, tmp_path):
    checkpoint(layout.checkpoints("j1"), 20)
    checkpoint(layout.checkpoints("j1"), 30)
    missing = refused(locate, checkpoint=f"{JOB}/checkpoints/10")
    assert (missing.reason, missing.metadata) == ("CHECKPOINT_NOT_FOUND", {"steps": "20, 30"})
    assert refused(locate, artifact=f"{JOB}/artifacts/adapter").reason == "ARTIFACT_NOT_FOUND"
    assert refused(locate, path="nothing").reason == "WEIGHTS_NOT_FOUND"
    for name in ("projects/p/jobs/j2", "projects/other/jobs/j1"):
        assert refused(locate, artifact=f"{name}/artifacts/adapter").reason == "JOB_NOT_FOUND"
        assert refused(locate, checkpoint=f"{name}/checkpoints/20").reason == "JOB_NOT_FOUND"
    add_artifact("adapter", peft_adapter(tmp_path / "made"))
    theirs = refused(locate, project="other", artifact=f"{JOB}/artifacts/adapter")
    assert theirs.reason == "JOB_NOT_FOUND", "of another project's job nobody learns that it is there"


@pytest.mark.parametrize("name", ["j1", "j1/artifacts/", "projects/p/datasets/j1/artifacts/a"])
def test_a_name_of_another_form_is_refused(locate, name):
    wrong = refused(locate, artifact=name)
    assert (wrong.reason, wrong.violations[0].field_path) == ("INVALID_NAME", "job.init.artifact")


@pytest.mark.parametrize("step", ["x", "-1", "1e3", "1234567890"])
def test_a_step_is_a_number(locate, step):
    wrong = refused(locate, checkpoint=f"{JOB}/checkpoints/{step}")
    assert (wrong.reason, wrong.violations[0].field_path) == ("INVALID_NAME", "job.init.checkpoint")


def test_a_damaged_checkpoint_is_refused(locate, layout):
    folder = checkpoint(layout.checkpoints("j1"), 20)
    (folder / "weights.safetensors").write_bytes(b"cut off")
    wrong = refused(locate, checkpoint=f"{JOB}/checkpoints/20")
    assert (wrong.reason, wrong.violations[0].field_path) == ("WEIGHTS_UNREADABLE", "job.init.checkpoint")
    assert whole_steps(layout.checkpoints("j1")) == []


def test_an_artifact_without_weights_or_with_lost_files_is_refused(locate, add_artifact, tmp_path):
    folder = add_artifact("adapter", peft_adapter(tmp_path / "made"))
    add_artifact("preview", peft_adapter(tmp_path / "rows"), kind=artifact_pb2.ARTIFACT_KIND_REPORT)
    assert "no weights" in refused(locate, artifact=f"{JOB}/artifacts/preview").message
    (folder / "adapter_model.safetensors").write_bytes(b"cut")
    lost = refused(locate, artifact=f"{JOB}/artifacts/adapter")
    assert (lost.reason, "adapter_model.safetensors" in lost.message) == ("WEIGHTS_UNREADABLE", True)


def test_an_adapter_folder_that_cannot_be_used_is_refused_by_name(locate, root):
    folder = peft_adapter(root / "mine")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2])
    assert refused(locate, path="mine").reason == "WEIGHTS_UNREADABLE"
    weights.rename(folder / "adapter_model.bin")
    pickled = refused(locate, path="mine")
    assert (pickled.reason, pickled.violations[0].field_path) == ("MODEL_PICKLED", "job.init.path")
    assert refused(locate, path="base").reason == "WEIGHTS_UNREADABLE", "a model is no adapter"


def test_no_link_leads_out_of_the_roots(locate, root, tmp_path):
    outside = peft_adapter(tmp_path / "secret")
    (root / "linked").symlink_to(outside)
    inner = peft_adapter(root / "mine")
    (inner / "adapter_model.safetensors").unlink()
    (inner / "adapter_model.safetensors").symlink_to(outside / "adapter_model.safetensors")
    for path in ("linked", "mine", "../secret", str(outside)):
        found = refused(locate, path=path)
        assert found.reason == "PATH_OUTSIDE_ROOTS", path
        assert str(tmp_path) not in found.message.replace(str(outside), ""), "what the caller did not say is not told"
    within = peft_adapter(root / "blobs")
    (inner / "adapter_model.safetensors").unlink()
    (inner / "adapter_model.safetensors").symlink_to(within / "adapter_model.safetensors")
    assert locate(path="mine").folder == inner, "a hub's cache links its files to blobs"


def test_other_content_than_was_asked_for_is_refused(locate, root):
    peft_adapter(root / "mine")
    changed = refused(locate, path="mine", sha256="0" * 64)
    assert (changed.reason, changed.violations[0].field_path) == ("WEIGHTS_CHANGED", "job.init.sha256")


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ({"base_model_name_or_path": "ORG/base"}, ""),
        ({"base_model_name_or_path": "org/other"}, "org/other, and the model is org/base"),
        ({"base_model_name_or_path": "org/base", "revision": "c" * 40}, "commit cccccccccccc"),
        ({"base_model_name_or_path": "/home/me/base"}, ""),
    ],
)
def test_an_adapter_of_another_base_is_refused(locate, root, base, said):
    peft_adapter(root / "mine", **base)
    model = BaseModel("base", root / "base", "org/base", revision="d" * 40)
    if not said:
        require_base(locate(path="mine"), model, "job.init")
        return
    with pytest.raises(DomainError, match=said) as found:
        require_base(locate(path="mine"), model, "job.init")
    assert (found.value.reason, found.value.violations[0].field_path) == ("WRONG_BASE", "job.init")


def test_a_base_of_other_dimensions_is_refused(locate, layout, root):
    peft_adapter(root / "mine")
    base_model(root / "wide", inputs=8)
    with pytest.raises(DomainError, match="width of 6") as found:
        require_base(locate(path="mine"), BaseModel("wide", root / "wide"), "job.init")
    assert found.value.reason == "WRONG_BASE"
    checkpoint(layout.checkpoints("j1"), 20)
    made = locate(checkpoint=f"{JOB}/checkpoints/20")
    require_base(made, BaseModel("base", root / "base", "org/base"), "job.init")
    with pytest.raises(DomainError, match="fingerprint"):
        require_base(made, BaseModel("wide", root / "wide"), "job.init")


def test_a_damaged_manifest_of_a_job_is_no_surprise(store, locate, root):
    """A downloaded artifact under a root, whose manifest names its base, and then does not."""
    folder = peft_adapter(root / "mine")
    (folder / "finetree.json").write_text(json.dumps({"base": 7}))
    assert refused(locate, path="mine").reason == "WEIGHTS_UNREADABLE"
    assert store.read_now(lambda connection: jobs.project_of(connection, "j1")) == "p"
