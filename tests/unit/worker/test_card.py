# SPDX-License-Identifier: Apache-2.0
"""Model cards: metadata that a hub's own library parses, what was measured, no row and no folder, lines that load."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from finetree_api.trainer.v1 import event_pb2
from finetree_worker import card
from finetree_worker.card import Card, Record
from finetree_worker.errors import Cancelled
from finetree_worker.models.gguf import base_facts
from finetree_worker.plan import BaseModel, Metric, Plan
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM
from worker_harness import METHODS, Recorder, elsewhere, held_out, pausing, run, tuned

pytestmark = [
    # peft 0.21 calls transformers 5 by old names.
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*base_model_name_or_path:UserWarning"),
]

LIBRARIES = {"full": "transformers", "lora": "peft", "nf4": "peft", "prefix": "peft", "houlsby": "finetree"}


def evaluated(plan: Plan, kind: str = "lora") -> Plan:
    chosen = replace(plan, method=METHODS[kind], job="projects/p/jobs/j", plan_digest="sha256:" + "0f" * 32)
    wanted = {"metrics": (Metric.LOSS, Metric.TOKEN_ACCURACY), "before_training": True}
    return held_out(tuned(chosen, max_steps=2, epochs=None), fraction=0.25, **wanted)


def card_of(plan: Plan) -> str:
    return (plan.artifact / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", LIBRARIES)
def test_a_hub_reads_the_metadata_of_each_method_and_its_lines_load_it(
    plan: Plan, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = evaluated(plan, kind)
    seen = run(chosen)
    text = card_of(chosen)
    data = ModelCard(text).data
    library, relation = LIBRARIES[kind], "finetune" if kind == "full" else "adapter"
    assert (data.library_name, data.base_model, data.base_model_relation) == (library, "example/tiny", relation)
    assert (data.pipeline_tag, data.tags) == ("text-generation", ["finetree", chosen.method.name])
    measured = {result.metric_type: result.metric_value for result in data.eval_results}
    last = seen.of(event_pb2.EvalMetrics)[-1]
    assert measured["loss"] == pytest.approx(last.loss, abs=1e-6)
    assert measured["accuracy"] == pytest.approx(last.token_accuracy, abs=1e-6)
    assert data.finetree["dataset_sha256"] == hashlib.sha256(chosen.data.train.read_bytes()).hexdigest()
    assert data.finetree["plan_digest"] == chosen.plan_digest
    # What the hub's library writes again is what it has read.
    assert ModelCard(str(ModelCard(text))).data.to_dict() == data.to_dict()
    # The lines as they stand there, in the artifact's folder; the base's hub id is the folder that was trained on.
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(code.splitlines()) == 3
    monkeypatch.chdir(chosen.artifact)
    names: dict[str, Any] = {}
    exec(code.replace('"example/tiny"', repr(str(plan.base.folder))), names)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        tuned_logits = names["model"].eval()(input_ids=ids).logits
        base = AutoModelForCausalLM.from_pretrained(plan.base.folder)(input_ids=ids).logits
    assert (tuned_logits - base).abs().max() > 1e-5


def test_both_evaluations_and_the_numbers_of_the_data_are_told(plan: Plan) -> None:
    chosen = evaluated(plan)
    seen = run(chosen)
    text, (before, *_, after) = card_of(chosen), seen.of(event_pb2.EvalMetrics)
    assert f"| loss | {before.loss:.4f} | {after.loss:.4f} |" in text
    train, rows = seen.of(event_pb2.DatasetReport)[0], len(chosen.data.train.read_bytes().splitlines())
    assert f"| training rows | {train.profile.examples:,} |" in text
    assert f"On {rows - train.profile.examples} held-out rows." in text
    assert f"| rank | {METHODS['lora'].rank} |" in text
    assert f"| transformers | {transformers.__version__} |" in text


def test_a_card_has_no_row_and_no_folder(plan: Plan, tmp_path: Path) -> None:
    chosen = evaluated(plan)
    run(chosen)
    text = card_of(chosen)
    assert str(tmp_path) not in text
    assert str(plan.base.folder) not in text
    for line in plan.data.train.read_text(encoding="utf-8").splitlines():
        for value in _texts(json.loads(line)):
            assert len(value) < 12 or value not in text


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for each in value.values() for text in _texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return [value] if isinstance(value, str) else []


def test_a_run_that_was_stopped_and_resumed_has_the_same_card(plan: Plan, tmp_path: Path) -> None:
    chosen = evaluated(plan)
    run(chosen)
    other = elsewhere(chosen, tmp_path / "other")
    with pytest.raises(Cancelled):
        run(other, pausing(1))
    assert not other.artifact.exists()
    resumed = Recorder()
    run(replace(other, attempt=2), resumed)
    assert [metrics.step for metrics in resumed.of(event_pb2.EvalMetrics)] == [2]
    assert card_of(other) == card_of(chosen)


def test_a_run_without_held_out_rows_says_that_nothing_was_measured(plan: Plan) -> None:
    run(tuned(plan, max_steps=1, epochs=None))
    text = card_of(plan)
    assert "nothing was measured" in text
    assert ModelCard(text).data.eval_results is None


@pytest.mark.parametrize(
    ("front", "license_"),
    [
        ("license: apache-2.0\n", "apache-2.0"),
        ("tags: [x]\nlicense: 'MIT'\nbase_model: a/b\n", "mit"),
        ("license: [a, b]\n", ""),
        ("tags: [license]\n", ""),
        ("license: ../../etc\n", ""),
    ],
)
def test_the_license_is_the_one_that_the_base_names(tmp_path: Path, front: str, license_: str) -> None:
    (tmp_path / "README.md").write_text(f"---\n{front}---\n\nlicense: gpl\n", encoding="utf-8")
    assert base_facts(BaseModel(tmp_path, fingerprint="0f")).license == license_


def test_names_that_are_no_hub_ids_are_no_metadata_and_break_no_table() -> None:
    base = BaseModel(Path("/secret"), hub_id="a|b\n## c", revision="main")
    text = card.render(Card("T", "S", "peft", base, "adapter", (("python", "x = 1"),), data={"rows": "<b>1|2</b>"}))
    assert ModelCard(text).data.base_model is None
    assert "a\\|b ## c" in text
    assert "\\<b\\>1\\|2\\</b\\>" in text
    assert "/secret" not in text


def test_a_damaged_note_of_the_base_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "before-training.json").write_text("{", encoding="utf-8")
    assert Record(Recorder(), tmp_path).before is None
