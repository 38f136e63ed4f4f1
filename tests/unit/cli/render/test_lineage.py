# SPDX-License-Identifier: Apache-2.0
"""A job's lineage as text and as a document: what compliance asks for is in both."""

from finetree_api.trainer.v1 import artifact_pb2, job_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2, training_pb2
from finetree_cli.output import Output
from finetree_cli.render.lineage import show_lineage, tree_document

SPEC = run_spec_pb2.RunSpec(
    lora=method_pb2.Lora(rank=8, weight_decomposed=True, target_modules=["q_proj", "v_proj"]),
    training=training_pb2.Training(max_steps=4, schedule=training_pb2.SCHEDULE_COSINE),
)
PARENT = "projects/p/jobs/parent"


def job(name, parents=()) -> job_pb2.Job:
    lineage = artifact_pb2.Lineage(
        datasets=[artifact_pb2.LineageDataset(split=1, name="projects/p/datasets/d", sha256="ab" * 32)],
        base=artifact_pb2.ArtifactBase(hub_id="acme/small", revision="c0" * 20),
        versions={"finetree-worker": "1.0"},
        plan_digest="sha256:" + "cd" * 32,
        parents=parents,
    )
    return job_pb2.Job(name=name, train=job_pb2.TrainTask(spec=SPEC), lineage=lineage)


CHILD = job(
    "projects/p/jobs/child", [artifact_pb2.LineageParent(name=f"{PARENT}/artifacts/a", sha256="ef" * 32, job=PARENT)]
)
OLDER = {PARENT: job(PARENT)}


def test_base_data_spec_programs_and_parents_are_shown_of_each_job(capsys):
    show_lineage(Output(), CHILD, OLDER)
    said = " ".join(capsys.readouterr().out.split())
    for part in (
        "acme/small@c0c0c0c0c0c0",
        "sha256:abababababab",
        "plan sha256:cdcdcdcdcdcd",
        "finetree-worker 1.0",
        "spec lora.rank=8, lora.target_modules=q_proj,v_proj, lora.weight_decomposed=true, ",
        "training.max_steps=4, training.schedule=cosine",
    ):
        assert said.count(part) == 2, part
    assert "from parent/artifacts/a sha256:efefefefefef" in said


def test_the_document_has_the_whole_spec_of_each_job():
    found = tree_document(CHILD, OLDER)
    (parent,) = found["parents"]
    assert found["spec"]["lora"]["rank"] == parent["made_by"]["spec"]["lora"]["rank"] == 8
    export = job_pb2.Job(name="projects/p/jobs/e", export=job_pb2.ExportTask())
    assert tree_document(export, {})["spec"] == {}
