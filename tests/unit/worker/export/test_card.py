# SPDX-License-Identifier: Apache-2.0
"""The card of an export tells what was trained on, how, and how the file compares with it."""

from dataclasses import replace
from pathlib import Path

import pytest
from finetree_api.trainer.v1 import artifact_pb2, export_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2, serving_pb2, training_pb2
from finetree_worker import card
from finetree_worker.card import Card
from finetree_worker.export.card import of_export
from finetree_worker.methods.weights import Weights
from finetree_worker.plan import BaseModel
from huggingface_hub import ModelCard

BASE = BaseModel(Path("base"), "example/tiny")
SPEC = run_spec_pb2.RunSpec(
    lora=method_pb2.Lora(rank=8, target_modules=["q_proj"]), training=training_pb2.Training(learning_rate=3e-4)
)
TRAINED = Card(
    title="tiny, fine-tuned",
    summary="An adapter.",
    library="peft",
    base=BASE,
    relation="adapter",
    load=(("python", "model = load()"),),
    data={"training rows": "16"},
    recipe={"method": "lora", "rank": "8"},
    before={"loss": 4.0},
    after={"loss": 2.5},
    held_out="8 held-out rows",
    facts={"dataset_sha256": "ab" * 32, "plan_digest": "sha256:cd"},
)
REPORT = export_pb2.ExportReport(
    format=artifact_pb2.EXPORT_FORMAT_TRANSFORMERS,
    merged=True,
    prompts=2,
    prompt_source=export_pb2.PROMPT_SOURCE_HELD_OUT_ROWS,
    comparisons=[
        export_pb2.LogitComparison(model=export_pb2.COMPARED_MODEL_TRAINED, largest_difference=0.033, equal_answers=1)
    ],
    merge_difference=0.0001,
    exact_match_before=0.5,
    exact_match_after=0.25,
    load_commands=[
        export_pb2.LoadCommand(program=serving_pb2.SERVING_TARGET_TRANSFORMERS, command="import a\nb = a.load()")
    ],
)


@pytest.fixture
def weights(tmp_path: Path) -> Weights:
    card.write(tmp_path, TRAINED)
    return Weights("JOB", tmp_path, artifact_pb2.ARTIFACT_KIND_ADAPTER, spec=SPEC)


def rendered(weights: Weights) -> str:
    return card.render(of_export(BASE, weights, REPORT, weight_type="bf16"))


def test_data_evaluation_and_recipe_are_those_of_the_trained_artifact(weights):
    text = rendered(weights)
    for row in ("| training rows | 16 |", "| loss | 4.0000 | 2.5000 |", "| rank | 8 |"):
        assert row in text
    assert "Of the trained weights, before they were exported. On 8 held-out rows." in text
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Load it",
        "## Base",
        "## Export",
        "## Data",
        "## Evaluation",
        "## Recipe",
        "## Versions",
    ]
    noted = ModelCard(text).data
    assert (noted.finetree["dataset_sha256"], noted.finetree["plan_digest"]) == ("ab" * 32, "sha256:cd")
    assert noted.tags == ["finetree", "lora", "transformers"]


def test_it_tells_how_the_file_compares(weights):
    text = rendered(weights)
    for row in (
        "| weights | bf16 |",
        "| largest difference of logits from the trained model | 0.033 |",
        "| answers as the trained model gives them | 1 of 2 |",
        "| of it, by merging alone | 0.0001 |",
        "| exact match before and after | 0.5000 and 0.2500 |",
    ):
        assert row in text
    (result,) = ModelCard(text).data.eval_results
    # What a hub shows was measured on the file, not on the adapter.
    assert (result.metric_type, result.metric_value) == ("exact_match", 0.25)
    assert result.dataset_name == "2 prompts of the held-out rows"


def test_of_a_checkpoint_the_recipe_is_read_from_the_spec(weights):
    text = rendered(replace(weights, checkpoint=True))
    assert "## Data" not in text
    for row in ("| method | lora |", "| rank | 8 |", r"| target modules | q\_proj |", "| learning rate | 0.0003 |"):
        assert row in text


@pytest.mark.parametrize(
    "content", [b"\xff", b"no card", b"---\n: [\n---\n## Data\n", b"---\nfinetree: 3\n---\n## Data\nx"]
)
def test_a_damaged_card_is_left_out_and_one_of_others_is_not_read(weights, content):
    others = replace(weights, spec=None)
    assert "training rows" not in rendered(others)
    (weights.folder / card.NAME).write_bytes(content)
    text = rendered(weights)
    assert "| rank | 8 |" in text
    assert "| weights | bf16 |" in text
