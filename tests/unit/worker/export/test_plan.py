# SPDX-License-Identifier: Apache-2.0
"""An export's plan from the task of the contract: defaults, rows that are asked, and what does not go together."""

import pytest
from finetree_api.trainer.v1 import artifact_pb2, export_pb2, job_pb2
from finetree_api.types.v1 import run_spec_pb2, training_data_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_worker.errors import PlanError
from finetree_worker.export.gguf.weights import WeightType
from finetree_worker.export.plan import export_plan

CSV = training_data_pb2.DatasetReading(file_format=training_data_pb2.FILE_FORMAT_CSV)


def task_of(tmp_path, **fields: object) -> worker_pb2.Task:
    task = worker_pb2.Task(job="projects/p/jobs/j", attempt=2, export=job_pb2.ExportTask(**fields))
    task.folders.artifact_dir = str(tmp_path)
    task.weights.add(folder=str(tmp_path / "adapter"), spec=run_spec_pb2.RunSpec())
    return task


def test_what_a_task_does_not_say_has_the_documented_default(tmp_path):
    plan = export_plan(task_of(tmp_path))
    assert (plan.format, plan.weight_type) == (artifact_pb2.EXPORT_FORMAT_TRANSFORMERS, None)
    assert (plan.rows, plan.prompt_source) == (None, export_pb2.PROMPT_SOURCE_BUILT_IN)
    assert (plan.max_prompts, plan.max_new_tokens, plan.artifact) == (8, 32, tmp_path / "merged")
    assert export_plan(task_of(tmp_path, format=artifact_pb2.EXPORT_FORMAT_GGUF)).weight_type is WeightType.F16
    lora = export_plan(task_of(tmp_path, format=artifact_pb2.EXPORT_FORMAT_GGUF_LORA))
    assert (lora.weight_type, lora.artifact) == (WeightType.F32, tmp_path / "gguf-lora")


def test_an_artifact_of_an_earlier_attempt_is_left_alone(tmp_path):
    (tmp_path / "merged").mkdir()
    assert export_plan(task_of(tmp_path)).artifact == tmp_path / "merged-2"


@pytest.mark.parametrize(
    ("given", "source", "file"),
    [
        ({"prompts": True}, export_pb2.PROMPT_SOURCE_REQUEST, "rows"),
        ({"held_out": True}, export_pb2.PROMPT_SOURCE_HELD_OUT_ROWS, "held-out"),
        ({}, export_pb2.PROMPT_SOURCE_TRAINING_ROWS, "rows"),
    ],
)
def test_rows_are_read_as_whoever_named_them_said(tmp_path, given, source, file):
    task = task_of(tmp_path)
    task.dataset_file = str(tmp_path / "rows")
    named = task.weights[0].spec.dataset
    if given.get("prompts"):
        named = task.export.prompts
    if given.get("held_out"):
        task.evaluation_file = str(tmp_path / "held-out")
        named = task.weights[0].spec.evaluation.dataset
    named.reading.CopyFrom(CSV)
    plan = export_plan(task)
    assert plan.rows is not None
    assert (plan.prompt_source, plan.rows.path.name) == (source, file)
    assert plan.rows.reading.file_format == "csv"


@pytest.mark.parametrize("kind", [artifact_pb2.EXPORT_FORMAT_TRANSFORMERS, artifact_pb2.EXPORT_FORMAT_GGUF_LORA])
def test_blocks_of_eight_bits_are_of_gguf_models_alone(tmp_path, kind):
    with pytest.raises(PlanError, match="Q8_0") as raised:
        export_plan(task_of(tmp_path, format=kind, weight_type=artifact_pb2.WEIGHT_TYPE_Q8_0))
    assert raised.value.reason == "EXPORT_FORMAT_UNSUPPORTED"
