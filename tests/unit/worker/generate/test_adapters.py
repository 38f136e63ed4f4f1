# SPDX-License-Identifier: Apache-2.0
"""Targets beside others: what each computes, and that nothing of it stays."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import method_pb2, run_spec_pb2
from finetree_worker.atomic_files import atomic_folder
from finetree_worker.errors import PlanError, TaskError
from finetree_worker.generate import adapters
from finetree_worker.generate.adapters import BASE, Adapters
from finetree_worker.generate.engine import Engine
from finetree_worker.methods import weights as trained_weights
from finetree_worker.methods.qlora import Qlora, Quantization
from finetree_worker.methods.weights import Weights
from finetree_worker.models.load import load_model
from generate_harness import METHODS, base_of, trained
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

PROMPT = [7, 31, 99, 4, 250, 8, 8, 61]


def fresh_logits(weights: Weights, base: Path) -> torch.Tensor:
    """What the adapter predicts when it is loaded alone, by the loader that evaluations use."""
    model = trained_weights.load(base_of(base), weights).eval()
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([PROMPT])).logits[0, -1]
    return logits


@pytest.mark.parametrize("name", METHODS)
def test_each_target_predicts_what_a_fresh_load_of_it_alone_does(
    serving: Callable[..., Engine], saved: dict[str, Weights], base_folder: Path, name: str
) -> None:
    """To 1e-5 and not bit for bit: the loader adds in another order (DoRA), or masks the prefix in another kernel."""
    engine = serving(*METHODS)
    alone = fresh_logits(saved[name], base_folder)
    torch.testing.assert_close(engine.logits(name, PROMPT), alone, atol=1e-5, rtol=0)
    assert float((alone - engine.logits(BASE, PROMPT)).abs().max()) > 0.05


def test_a_target_after_another_predicts_bit_for_bit_what_it_did_before(serving: Callable[..., Engine]) -> None:
    engine = serving(*METHODS)
    before = {name: engine.logits(name, PROMPT) for name in (BASE, *METHODS)}
    for name in (*reversed(METHODS), BASE):
        assert torch.equal(engine.logits(name, PROMPT), before[name]), name


def test_removing_every_target_leaves_the_base_bit_for_bit(serving: Callable[..., Engine], base_folder: Path) -> None:
    untouched = base_of(base_folder)
    weights = {name: tensor.clone() for name, tensor in untouched.state_dict().items()}
    with torch.no_grad():
        whole = untouched(input_ids=torch.tensor([PROMPT]), logits_to_keep=1).logits[0, -1]
    engine = serving(*METHODS, frozen=False)
    for name in METHODS:
        engine.logits(name, PROMPT)
        engine.adapters.remove(name)
    assert engine.adapters.names == []
    assert not any(module._forward_hooks for module in engine.model.modules())
    assert torch.equal(engine.logits(BASE, PROMPT), whole)
    left = engine.model.state_dict()
    assert left.keys() == weights.keys()
    assert all(torch.equal(left[name], tensor) for name, tensor in weights.items())


def test_where_no_target_is_asked_the_base_runs_without_hooks(serving: Callable[..., Engine]) -> None:
    engine = serving("lora4", "houlsby")

    def hooked() -> set[str]:
        return {name.rpartition(".")[2] for name, module in engine.model.named_modules() if module._forward_hooks}

    assert hooked() == set()
    engine.logits("lora4", PROMPT)
    assert hooked() == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    engine.logits("houlsby", PROMPT)
    assert hooked() == {"self_attn", "mlp"}
    engine.logits(BASE, PROMPT)
    assert hooked() == set()


def test_one_that_is_removed_changes_nothing_for_the_others(serving: Callable[..., Engine]) -> None:
    engine = serving("lora4", "dora", "prefix", "houlsby")
    before = {name: engine.logits(name, PROMPT) for name in ("lora4", "prefix", "houlsby")}
    engine.adapters.remove("dora")
    assert all(torch.equal(engine.logits(name, PROMPT), logits) for name, logits in before.items())


def storages(*held: Any) -> dict[int, int]:
    """Bytes of the memory behind tensors, once each."""
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in held}


def test_ten_targets_take_the_memory_of_one_base_and_ten_adapters(
    serving: Callable[..., Engine], saved: dict[str, Weights], base_folder: Path
) -> None:
    engine = serving(*METHODS, frozen=False)
    targets = [engine.adapters[name] for name in METHODS]
    held = [tensor for target in targets for change in target.changes.values() for tensor in change.tensors()]
    held += [part for target in targets for pair in target.prefix for part in pair]
    base = base_of(base_folder)
    alone = sum(storages(*base.parameters(), *base.buffers()).values())
    files = sum(next(each.folder.glob("adapter*.safetensors")).stat().st_size for each in saved.values())
    whole = sum(storages(*engine.model.parameters(), *engine.model.buffers(), *held).values())
    # A file has its header besides, DoRA holds one norm more than its file.
    assert alone < whole < alone + files
    assert sum(target.size_bytes for target in targets) == whole - alone


def spec_of(name: str) -> run_spec_pb2.RunSpec:
    """The resolved run that one of METHODS would be trained by."""
    method: Any = METHODS[name]
    if method.name == "lora":
        settings = method_pb2.Lora(rank=method.rank, alpha=method.alpha, weight_decomposed=method.weight_decomposed)
        return run_spec_pb2.RunSpec(lora=settings)
    if method.name == "prefix":
        return run_spec_pb2.RunSpec(prefix=method_pb2.PrefixTuning(virtual_tokens=method.virtual_tokens))
    placement = method_pb2.AdapterPlacement.Value(f"ADAPTER_PLACEMENT_{method.placement.name}")
    return run_spec_pb2.RunSpec(adapter=method_pb2.AdapterLayers(bottleneck_size=8, placement=placement))


@pytest.mark.parametrize("name", ["lora4", "dora", "prefix", "houlsby"])
def test_a_checkpoint_predicts_what_the_artifact_of_its_weights_does(
    serving: Callable[..., Engine], saved: dict[str, Weights], base_folder: Path, tmp_path: Path, name: str
) -> None:
    """Its tensors have the names of the trained model's parameters; how they are used is in the run's spec."""
    adapted = METHODS[name].blank(base_of(base_folder))
    trained_weights.initialize(adapted, saved[name])
    folder = tmp_path / "step-00000007"
    with atomic_folder(folder, {"step": 7}) as draft:
        trainable = {key: p.detach() for key, p in adapted.named_parameters() if p.requires_grad}
        save_file(trainable, draft / "weights.safetensors")
    engine = serving(name)
    weights = Weights("x", folder, artifact_pb2.ARTIFACT_KIND_ADAPTER, checkpoint=True, spec=spec_of(name))
    engine.adapters.add("checkpoint", adapters.read(weights, engine.model))
    assert torch.equal(engine.logits("checkpoint", PROMPT), engine.logits(name, PROMPT))


def refused(weights: Weights, engine: Engine) -> TaskError:
    before = engine.logits(BASE, PROMPT)
    with pytest.raises(TaskError) as raised:
        engine.adapters.add("new", adapters.read(weights, engine.model))
    assert "new" not in engine.adapters
    assert torch.equal(engine.logits(BASE, PROMPT), before)
    return raised.value


@pytest.mark.parametrize("name", ["lora4", "prefix", "pfeiffer"])
def test_an_adapter_of_a_wider_base_is_refused(
    serving: Callable[..., Engine], tiny: Callable[..., Any], tokenizer: Any, tmp_path: Path, name: str
) -> None:
    wider = tmp_path / "wider"
    tiny("llama", hidden_size=64).save_pretrained(wider)
    tokenizer.save_pretrained(wider)
    assert refused(trained(METHODS[name], wider, tmp_path / name), serving()).reason == "WRONG_BASE"


def test_an_adapter_whose_manifest_names_another_base_is_refused(
    serving: Callable[..., Engine], saved: dict[str, Weights]
) -> None:
    """Of the same shape, but with another fingerprint."""
    assert refused(replace(saved["lora4"], base_fingerprint="0" * 64), serving()).reason == "WRONG_BASE"


def damaged(saved: Weights, folder: Path, change: str) -> Weights:
    shutil.copytree(saved.folder, folder)
    config = folder / "adapter_config.json"
    match change:
        case "cut":
            file = folder / "adapter_model.safetensors"
            file.write_bytes(file.read_bytes()[:-100])
        case "no config":
            config.unlink()
        case "no json":
            config.write_text("{")
        case "no alpha":
            config.write_text(
                json.dumps({key: v for key, v in json.loads(config.read_text()).items() if key != "lora_alpha"})
            )
        case _:
            config.write_text(json.dumps(json.loads(config.read_text()) | json.loads(change)))
    return replace(saved, folder=folder)


@pytest.mark.parametrize(
    "change",
    [
        *("cut", "no config", "no json", "no alpha"),
        *('{"bias": "all"}', '{"r": 5}', '{"r": null}', '{"modules_to_save": ["lm_head"]}'),
    ],
)
def test_a_corrupt_or_unusual_adapter_is_refused(
    serving: Callable[..., Engine], saved: dict[str, Weights], tmp_path: Path, change: str
) -> None:
    assert refused(damaged(saved["lora4"], tmp_path / "bad", change), serving()).reason == "WEIGHTS_UNREADABLE"


def test_weights_that_memory_does_not_hold_are_refused_before_they_are_read(
    serving: Callable[..., Engine], saved: dict[str, Weights], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "free_memory_bytes", lambda _: 1000)
    monkeypatch.setattr(adapters, "load_file", None)
    assert refused(saved["lora4"], serving()).reason == "OUT_OF_MEMORY_PREFLIGHT"


def test_a_name_can_be_had_once_and_so_many_targets(serving: Callable[..., Engine], saved: dict[str, Weights]) -> None:
    engine = serving("lora4")
    target = engine.adapters["lora4"]
    for name in ("lora4", BASE):
        with pytest.raises(PlanError, match="loaded already"):
            engine.adapters.add(name, target)
    for index in range(adapters.MAX_TARGETS - 1):
        engine.adapters.add(f"more-{index}", target)
    with pytest.raises(PlanError) as full:
        engine.adapters.add("one-more", target)
    assert full.value.reason == "TARGET_LIMIT"


def test_peft_patterns_of_alpha_and_rank_are_followed(
    serving: Callable[..., Engine], base_folder: Path, tmp_path: Path
) -> None:
    """An adapter that others trained with peft: its own rank and alpha for some modules."""
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "up_proj"],
        rank_pattern={"up_proj": 2},
        alpha_pattern={"q_proj": 3},
    )
    adapted = get_peft_model(base_of(base_folder), config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        alone = adapted.eval()(input_ids=torch.tensor([PROMPT])).logits[0, -1]
    adapted.save_pretrained(str(tmp_path / "peft"))
    engine = serving()
    weights = Weights("peft", tmp_path / "peft", artifact_pb2.ARTIFACT_KIND_ADAPTER)
    engine.adapters.add("peft", adapters.read(weights, engine.model))
    torch.testing.assert_close(engine.logits("peft", PROMPT), alone, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning")
@pytest.mark.parametrize("kind", [Quantization.NF4, Quantization.INT8])
def test_adapters_on_a_quantized_base_predict_what_a_fresh_load_does(
    base_folder: Path, saved: dict[str, Weights], tokenizer: Any, kind: Quantization
) -> None:
    """Of QLoRA's kind; DoRA's norms are those of the weights that the packed layers compute with."""
    quantization = Qlora(quantized_as=kind).quantization(torch.float32)

    def base() -> Any:
        model = load_model(base_folder, torch.float32, device=torch.device("cpu"), quantization=quantization)
        return model.requires_grad_(requires_grad=False).eval()

    model = base()
    engine = Engine(model, tokenizer, Adapters(model))
    names = ["lora8", "dora", "prefix", "houlsby"]
    for name in names:
        engine.adapters.add(name, adapters.read(saved[name], model))
    if kind is Quantization.INT8:
        names.remove("dora")  # peft 0.21's breaks 8-bit layers on a CPU when it computes their norms
        assert engine.logits("dora", PROMPT).isfinite().all()
    for name in names:
        alone = trained_weights.load(base(), saved[name]).eval()
        with torch.no_grad():
            logits = alone(input_ids=torch.tensor([PROMPT])).logits[0, -1]
        # 8-bit products round their inputs to 8 bits, so that a difference in the last bit may become one of them.
        torch.testing.assert_close(
            engine.logits(name, PROMPT), logits, atol=1e-5 if kind is Quantization.NF4 else 0.1, rtol=0
        )
