# SPDX-License-Identifier: Apache-2.0
"""Trained weights come back onto their base as they were trained, whatever the method, and onto no other base."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_data.weights.errors import WeightsError
from finetree_worker.errors import ModelError
from finetree_worker.methods.weights import Weights, load
from finetree_worker.plan import CheckpointPlan, Plan
from finetree_worker.training import checkpoint
from finetree_worker.training.run import adapt
from finetree_worker.training.run import load as load_base
from peft import PeftModel
from worker_harness import METHODS, artifact_weights, checkpoint_weights, run, tuned

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning"),
    pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning"),
    pytest.mark.filterwarnings("ignore:The PEFT config's `base_model_name_or_path`:UserWarning"),
]
CPU = torch.device("cpu")
IDS = torch.arange(40)[None] % 256


@pytest.fixture
def trained(plan: Plan) -> Callable[[str], tuple[Plan, Weights]]:
    """Two steps with a method, and the artifact as a task of another job has it."""

    def train(kind: str) -> tuple[Plan, Weights]:
        chosen = replace(
            tuned(plan, epochs=None, max_steps=2),
            method=METHODS[kind],
            job="projects/p/jobs/j",
            checkpoints=CheckpointPlan(every_steps=1, keep=1),
        )
        run(chosen)
        return chosen, Weights.from_message(artifact_weights(chosen))

    return train


def of_checkpoint(plan: Plan, kind: str) -> Weights:
    return Weights.from_message(checkpoint_weights(plan, kind, 1))


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.eval()(input_ids=IDS).logits
    return found


@pytest.mark.parametrize("kind", ["full", "lora", "dora", "nf4", "prefix", "houlsby"])
def test_an_artifact_and_a_checkpoint_are_what_was_trained(
    plan: Plan, trained: Callable[[str], tuple[Plan, Weights]], kind: str
) -> None:
    run_plan, weights = trained(kind)
    before = logits(load_base(run_plan, CPU))
    ours = load(load_base(run_plan, CPU), weights)
    after = logits(ours)
    assert (after - before).abs().max() > 1e-3, "training has changed nothing"
    assert not any(p.requires_grad for p in ours.parameters())
    # The artifact as others load it: the same to rounding.
    if kind in ("lora", "dora", "nf4"):
        theirs = PeftModel.from_pretrained(load_base(run_plan, CPU), str(weights.folder))
        torch.testing.assert_close(logits(theirs), after, atol=1e-5, rtol=0)
    # Its checkpoint, put through the method that the spec names: bit for bit what resuming restores.
    saved = of_checkpoint(run_plan, kind)
    adapted, subject = adapt(run_plan, load_base(run_plan, CPU), CPU)
    found = checkpoint.newest(run_plan.checkpoints_dir, run_plan.numerics_hash())
    assert found is not None
    checkpoint.restore_weights(found, subject.trainable)
    assert torch.equal(logits(load(load_base(run_plan, CPU), saved)), logits(adapted))


def test_what_the_method_trains_can_be_trained_further(trained: Callable[[str], tuple[Plan, Weights]]) -> None:
    run_plan, weights = trained("lora")
    loaded = load(load_base(run_plan, CPU), weights, trainable=True)
    assert {name.partition(".lora_")[2][0] for name, p in loaded.named_parameters() if p.requires_grad} == {"A", "B"}


def test_a_whole_model_is_loaded_in_place_of_its_base(trained: Callable[[str], tuple[Plan, Weights]]) -> None:
    run_plan, weights = trained("full")
    assert weights.model_folder(run_plan.base.folder) == weights.folder
    base = load_base(run_plan, CPU).to(torch.bfloat16)
    assert load(base, weights).dtype == torch.bfloat16
    own = load_base(replace(run_plan, base=replace(run_plan.base, folder=weights.folder)), CPU)
    assert load(own, weights) is own, "it is that model already"


def damaged(run_plan: Plan, weights: Weights, how: str, tmp_path: Path) -> Weights:
    copy = replace(weights, folder=Path(shutil.copytree(weights.folder, tmp_path / "copy")))
    file = copy.folder / "adapter_model.safetensors"
    match how:
        case "flipped":
            file.write_bytes(file.read_bytes()[:-1] + b"\x01")
        case "cut off":
            file.write_bytes(file.read_bytes()[:-1])
        case "pickle":
            file.rename(copy.folder / "adapter_model.bin")
        case "replaced":
            (copy.folder / "finetree.json").unlink()
        case "checkpoint flipped":
            folder = run_plan.checkpoints_dir / "step-00000001"
            copy = of_checkpoint(run_plan, "lora")
            content = (folder / "weights.safetensors").read_bytes()
            (folder / "weights.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "checkpoint gone":
            copy = of_checkpoint(run_plan, "lora")
            shutil.rmtree(copy.folder)
        case "other settings":
            config = json.loads((copy.folder / "adapter_config.json").read_text())
            (copy.folder / "adapter_config.json").write_text(json.dumps(config | {"r": 2}))
            (copy.folder / "finetree.json").unlink()
            return replace(copy, sha256="")
        case _:
            raise AssertionError(how)
    return copy


def test_weights_that_are_not_whole_are_refused_and_change_nothing(
    trained: Callable[[str], tuple[Plan, Weights]], tmp_path: Path
) -> None:
    run_plan, weights = trained("lora")
    base = load_base(run_plan, CPU)
    before = logits(base)
    expected = {
        "flipped": "WEIGHTS_UNREADABLE",
        "cut off": "WEIGHTS_UNREADABLE",
        "pickle": "MODEL_PICKLED",
        "replaced": "WEIGHTS_CHANGED",
        "checkpoint flipped": "WEIGHTS_UNREADABLE",
        "checkpoint gone": "WEIGHTS_UNREADABLE",
    }
    for how, reason in expected.items():
        copy = damaged(run_plan, weights, how, tmp_path / how)
        with pytest.raises(ModelError) as refused:
            load(base, copy)
        assert refused.value.reason == reason, how
        assert str(tmp_path) not in refused.value.message + refused.value.remedy, how
    assert torch.equal(logits(base), before)
    with pytest.raises(ModelError, match=r"has the shape \(4, 48\) where \(2, 48\)") as refused:
        load(load_base(run_plan, CPU), damaged(run_plan, weights, "other settings", tmp_path / "settings"))
    assert refused.value.reason == "WEIGHTS_MISMATCH"


def test_weights_of_another_base_are_refused(
    trained: Callable[[str], tuple[Plan, Weights]], tiny: Callable[..., Any], tmp_path: Path
) -> None:
    run_plan, weights = trained("lora")
    tiny("llama", intermediate_size=64).save_pretrained(tmp_path / "other")
    other = load_base(replace(run_plan, base=replace(run_plan.base, folder=tmp_path / "other")), CPU)
    for wrong in (weights, of_checkpoint(run_plan, "lora")):
        with pytest.raises(ModelError, match="fingerprint") as refused:
            load(other, wrong)
        assert refused.value.reason == "WRONG_BASE"


def test_a_start_that_changes_the_base_is_refused(
    trained: Callable[[str], tuple[Plan, Weights]], tmp_path: Path
) -> None:
    run_plan, weights = trained("lora")
    copy = replace(weights, folder=Path(shutil.copytree(weights.folder, tmp_path / "copy")), sha256="")
    (copy.folder / "finetree.json").unlink()
    config = json.loads((copy.folder / "adapter_config.json").read_text())
    (copy.folder / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": "pissa"}))
    with pytest.raises(ModelError, match="pissa") as refused:
        load(load_base(run_plan, CPU), copy)
    assert isinstance(refused.value.__cause__, WeightsError)
