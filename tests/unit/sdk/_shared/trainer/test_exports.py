# SPDX-License-Identifier: Apache-2.0
"""What a caller writes of an export, as the request has it."""

import pytest
from finetree import InvalidArgument
from finetree._shared.trainer.exports import export_template
from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import weights_pb2

WEIGHTS = weights_pb2.TrainedWeights(checkpoint="projects/p/jobs/j/checkpoints/200")


def test_words_and_names_become_the_task_and_the_rest_the_job_s():
    job = export_template(
        WEIGHTS,
        {
            "format": "gguf_lora",
            "weight_type": "bf16",
            "base": "acme/tiny@main",
            "prompts": {"path": "held-out.jsonl"},
            "max_prompts": 4,
            "display_name": "mine",
            "labels": {"team": "search"},
        },
    )
    task = job.export
    assert task.weights == WEIGHTS
    assert (task.format, task.weight_type) == (artifact_pb2.EXPORT_FORMAT_GGUF_LORA, artifact_pb2.WEIGHT_TYPE_BF16)
    assert (task.base.hub.id, task.base.hub.revision, task.prompts.path) == ("acme/tiny", "main", "held-out.jsonl")
    assert (task.max_prompts, task.HasField("max_new_tokens")) == (4, False)
    assert (job.display_name, dict(job.labels)) == ("mine", {"team": "search"})


def test_what_is_not_given_is_left_to_the_server():
    task = export_template(WEIGHTS, {}).export
    assert [field.name for field, _ in task.ListFields()] == ["weights"]


def test_a_word_that_is_none_is_refused_with_those_that_there_are():
    with pytest.raises(InvalidArgument, match="gguf_lora"):
        export_template(WEIGHTS, {"format": "onnx"})
