# SPDX-License-Identifier: Apache-2.0
"""What full fine-tuning has made, beside its base: its own logits, the base's untouched, and what it takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2
from finetree_data.weights import adapter as adapter_files
from finetree_worker.atomic_files import atomic_folder
from finetree_worker.errors import TaskError
from finetree_worker.generate import adapters
from finetree_worker.generate.adapters import BASE, Adapters
from finetree_worker.generate.engine import Engine
from finetree_worker.generate.targets import whole
from finetree_worker.methods import weights as trained_weights
from finetree_worker.methods.weights import Weights
from finetree_worker.models.load import load_model, load_tokenizer
from generate_harness import base_of, request, run, texts
from safetensors.torch import save_file
from transformers import BitsAndBytesConfig

PROMPT = [7, 31, 99, 4, 250, 8, 8, 61]
FULL = run_spec_pb2.RunSpec(full=method_pb2.FullFineTuning())


def tuned(base: Path, folder: Path, *, only: str = "") -> Weights:
    """A whole model as full fine-tuning leaves it; `only` is in the names of what it changed."""
    model = base_of(base)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if only in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    with atomic_folder(folder, {}) as draft:
        model.save_pretrained(draft)
        load_tokenizer(base).save_pretrained(draft)
        (draft / adapter_files.MANIFEST).write_text("{}")
    return Weights("full", folder, artifact_pb2.ARTIFACT_KIND_MODEL)


def alone(weights: Weights, base: Path) -> torch.Tensor:
    """What it predicts when it is loaded by itself, by the loader that evaluations use."""
    model: Any = trained_weights.load(base_of(base), weights)
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=torch.tensor([PROMPT])).logits[0, -1]
    return logits


def test_a_whole_model_predicts_beside_its_base_what_it_does_alone(
    serving: Callable[..., Engine], base_folder: Path, tmp_path: Path
) -> None:
    weights, engine = tuned(base_folder, tmp_path / "full"), serving("lora4", "prefix", "houlsby")
    before = {name: engine.logits(name, PROMPT) for name in (BASE, "lora4", "prefix", "houlsby")}
    engine.adapters.add("full", adapters.read(weights, engine.model))
    own = engine.logits("full", PROMPT)
    torch.testing.assert_close(own, alone(weights, base_folder), atol=1e-5, rtol=0)
    assert float((own - before[BASE]).abs().max()) > 0.05
    for name in (BASE, "full", "lora4", "full", "prefix", "houlsby", BASE):
        assert torch.equal(engine.logits(name, PROMPT), own if name == "full" else before[name]), name
    engine.adapters.remove("full")
    assert torch.equal(engine.logits(BASE, PROMPT), before[BASE])


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral"])
def test_it_answers_in_one_batch_with_the_others_what_it_answers_by_itself(
    tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path, kind: str
) -> None:
    """Of several architectures; and its modules alone run where no other row is asked."""
    tiny(kind).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    weights, model = tuned(tmp_path / "base", tmp_path / "full"), base_of(tmp_path / "base")
    engine = Engine(model, tokenizer, Adapters(model))
    engine.adapters.add("full", adapters.read(weights, model))
    other = Engine(base_of(tmp_path / "full"), tokenizer, Adapters(model))
    asked = {"max_new_tokens": 12}
    together = texts(run(engine, request("hello", BASE, "full", **asked))[0])
    assert together == [texts(run(each, request("hello", BASE, **asked))[0])[0] for each in (engine, other)]
    engine.logits("full", PROMPT)
    assert not any(module._forward_hooks for module in engine.model.modules())


def test_a_checkpoint_and_frozen_layers_share_what_was_not_trained(
    serving: Callable[..., Engine], base_folder: Path, tmp_path: Path
) -> None:
    weights, engine = tuned(base_folder, tmp_path / "full", only="layers.1.mlp"), serving()
    found = adapters.read(weights, engine.model)
    assert set(found.changes) == {f"model.layers.1.mlp.{name}_proj" for name in ("gate", "up", "down")}
    assert 0 < found.size_bytes < whole.held_bytes(engine.model) / 4
    with atomic_folder(tmp_path / "step-00000007", {"step": 7}) as draft:
        state = {name: each for name, each in base_of(weights.folder).state_dict().items() if "layers.1.mlp" in name}
        save_file(state, draft / "weights.safetensors")
    kind = artifact_pb2.ARTIFACT_KIND_MODEL
    checkpoint = Weights("at", tmp_path / "step-00000007", kind, checkpoint=True, spec=FULL)
    engine.adapters.add("full", found)
    engine.adapters.add("at", adapters.read(checkpoint, engine.model))
    assert engine.adapters["at"].size_bytes == found.size_bytes
    assert torch.equal(engine.logits("at", PROMPT), engine.logits("full", PROMPT))


def test_one_takes_the_memory_of_a_base_and_is_refused_where_that_is_not_there(
    serving: Callable[..., Engine], base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, engine = tuned(base_folder, tmp_path / "full"), serving()
    assert adapters.read(weights, engine.model).size_bytes == whole.held_bytes(engine.model)
    monkeypatch.setattr(adapters, "free_memory_bytes", lambda _: whole.held_bytes(engine.model) - 1)
    assert refusal(weights, engine) == "OUT_OF_MEMORY_PREFLIGHT"


def refusal(weights: Weights, engine: Engine) -> str:
    """Reason for which it is not loaded."""
    with pytest.raises(TaskError) as raised:
        adapters.read(weights, engine.model)
    return raised.value.reason


def test_a_model_of_another_shape_and_a_mixture_of_experts_are_refused(
    serving: Callable[..., Engine], tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path
) -> None:
    tiny("llama", hidden_size=64).save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    assert refusal(tuned(tmp_path / "wide", tmp_path / "wider"), serving()) == "WRONG_BASE"
    tiny("mixtral").save_pretrained(tmp_path / "experts")
    tokenizer.save_pretrained(tmp_path / "experts")
    model = base_of(tmp_path / "experts")
    mixture = Engine(model, tokenizer, Adapters(model))
    assert refusal(tuned(tmp_path / "experts", tmp_path / "mixture"), mixture) == "WEIGHTS_UNREADABLE"


@pytest.mark.parametrize("bits", [{"load_in_8bit": True}, {"load_in_4bit": True}], ids=["8", "4"])
def test_a_checkpoint_is_refused_beside_a_quantized_base_and_the_artifact_is_not(
    base_folder: Path, tmp_path: Path, bits: dict[str, bool]
) -> None:
    """Copied into weights of 8 bits, which have the same shape, nearly all of it would be zeros."""
    config = BitsAndBytesConfig(**bits)  # type: ignore[no-untyped-call]  # the library leaves it untyped
    model = load_model(base_folder, torch.float32, device=torch.device("cpu"), quantization=config)
    engine, weights = Engine(model, load_tokenizer(base_folder), Adapters(model)), tuned(base_folder, tmp_path / "full")
    with atomic_folder(tmp_path / "step-00000007", {"step": 7}) as draft:
        state = {name: each.detach().clone() for name, each in base_of(weights.folder).named_parameters()}
        save_file(state, draft / "weights.safetensors")
    kind = artifact_pb2.ARTIFACT_KIND_MODEL
    checkpoint = Weights("at", tmp_path / "step-00000007", kind, checkpoint=True, spec=FULL)
    with pytest.raises(TaskError, match="is quantized in the model") as raised:
        adapters.read(checkpoint, model)
    assert raised.value.reason == "WEIGHTS_MISMATCH"
    engine.adapters.add("full", adapters.read(weights, model))
    assert float((engine.logits("full", PROMPT) - engine.logits(BASE, PROMPT)).abs().max()) > 0.05
