# SPDX-License-Identifier: Apache-2.0
"""What is downloaded of a checkpoint is what the artifact would be: the same files, names and settings."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from finetree_runtime.errors import FailedPrecondition
from finetree_trainer.models.portable_checkpoint import portable_files
from finetree_worker.methods import adapter
from finetree_worker.plan import CheckpointPlan, Plan
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from worker_harness import METHODS, run, tuned, weights, weights_at

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning"),
]


def downloaded(plan: Plan, step: int, folder: Path) -> Path:
    """The files of a checkpoint, read in small pieces."""
    folder.mkdir()
    for file in portable_files(plan.checkpoints_dir / f"step-{step:08d}", state=False):
        pieces = [file.read(offset, 1000) for offset in range(0, file.size, 1000)]
        (folder / file.path).write_bytes(b"".join(pieces))
        assert file.describe().size_bytes == file.size
    return folder


@pytest.mark.parametrize("kind", ["full", "lora", "dora", "nf4", "prefix", "houlsby"])
def test_a_checkpoint_is_downloaded_as_its_artifact_would_be(plan: Plan, kind: str, tmp_path: Path) -> None:
    chosen = tuned(replace(plan, method=METHODS[kind]), max_steps=3, epochs=None)
    chosen = replace(chosen, checkpoints=CheckpointPlan(every_steps=2))
    run(chosen)
    folder = downloaded(chosen, 2, tmp_path / "downloaded")
    (file,) = folder.glob("*.safetensors")
    found, trained, last = load_file(file), weights_at(chosen, 2), weights(chosen.artifact)
    assert {name: t.shape for name, t in found.items()} == {name: t.shape for name, t in last.items()}
    assert sorted(t.double().sum().item() for t in found.values()) == pytest.approx(
        sorted(t.double().sum().item() for t in trained.values())
    )
    if kind == "full":
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert all(torch.equal(parameter, trained[name]) for name, parameter in model.named_parameters())
        return
    settings = [json.loads((each / "adapter_config.json").read_text()) for each in (folder, chosen.artifact)]
    assert settings[0] == settings[1]
    base = AutoModelForCausalLM.from_pretrained(chosen.base.folder)
    if kind == "houlsby":
        loaded = adapter.tensors(adapter.load(base, folder))
    else:
        loaded = get_peft_model_state_dict(PeftModel.from_pretrained(base, folder), save_embedding_layers=False)
    assert all(torch.equal(tensor, found[name]) for name, tensor in loaded.items())
    assert loaded.keys() == found.keys()


def test_a_checkpoint_without_the_frozen_layers_is_no_model(plan: Plan) -> None:
    chosen = tuned(replace(plan, method=METHODS["full-frozen"]), max_steps=2, epochs=None)
    run(replace(chosen, checkpoints=CheckpointPlan(every_steps=1)))
    with pytest.raises(FailedPrecondition, match="froze layers"):
        portable_files(chosen.checkpoints_dir / "step-00000001", state=False)
