# SPDX-License-Identifier: Apache-2.0
"""LoRA layers computed together equal the same layers one by one: outputs, losses, gradients and what they keep."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest
import torch
from finetree_worker import randomness
from finetree_worker.data.packing import collate
from finetree_worker.methods import lora_groups
from finetree_worker.methods.lora import Lora, LoraLinear
from finetree_worker.methods.lora_groups import joined
from finetree_worker.methods.qlora import Qlora
from finetree_worker.plan import Plan, Precision
from finetree_worker.training.attention import by_document
from finetree_worker.training.fused.levers import Lever, only
from finetree_worker.training.fused.step import faster
from finetree_worker.training.gradients import places
from finetree_worker.training.loss import target_loss
from finetree_worker.training.run import load
from torch.autograd.graph import saved_tensors_hooks
from worker_harness import random_examples

ON, OFF = [Lever.LORA], list[Lever]()


class Step:
    """A tiny model with adapters whose B is not zero, and one micro-batch of it."""

    def __init__(self, model: Any, *, dropout: float = 0.25, dtype: torch.dtype = torch.float32, **more: Any) -> None:
        # A quantized model has its types since it was loaded.
        typed = model if getattr(model, "is_quantized", False) else model.to(dtype)
        self.adapted, self.model = Lora(rank=4, alpha=12.0, dropout=dropout, **more).apply_at(typed, 0, "lora")
        self.masks = randomness.bind(self.adapted, 5)
        with torch.no_grad():
            for name, parameter in self.adapted.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
        self.batch = collate(random_examples([60, 9, 50, 3]))
        self.model.train()

    def __call__(self, levers: Collection[Lever]) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
        """Return the loss, the gradients by name, and the bytes kept for the backward pass."""
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        self.adapted.zero_grad()
        if self.masks is not None:
            self.masks.begin(3, self.batch.keys, places=places(self.batch))
        hooks = saved_tensors_hooks(keep, lambda tensor: tensor)
        with only(levers), by_document(self.model), faster(self.model):
            with hooks:
                loss = target_loss(self.model, self.batch)
            # Inside too: with checkpointing it computes the layers again.
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        grads = {name: p.grad.clone() for name, p in self.adapted.named_parameters() if p.grad is not None}
        return loss.detach(), grads, sum(kept.values())


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral"])
def test_losses_and_gradients_are_equal_with_it_on_and_off(tiny: Any, kind: str) -> None:
    step = Step(tiny(kind))
    (on, grads_on, _), (off, grads_off, _) = step(ON), step(OFF)
    torch.testing.assert_close(on, off, atol=0, rtol=1e-5)
    assert grads_on.keys() == grads_off.keys()
    assert len(grads_on) > 8
    for name, grad in grads_on.items():
        assert grad.norm() > 0, name
        torch.testing.assert_close(grad, grads_off[name], atol=1e-4, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}")


def test_bfloat16_differs_from_float32_no_more_than_the_plain_way(tiny: Any) -> None:
    exact = Step(tiny("llama"))(OFF)[1]
    step = Step(tiny("llama"), dtype=torch.bfloat16)

    def error(grads: dict[str, torch.Tensor]) -> float:
        whole = torch.cat([(grads[name] - exact[name]).flatten() for name in exact])
        return float(whole.norm() / torch.cat([grad.flatten() for grad in exact.values()]).norm())

    (_, on, kept_on), (_, off, kept_off) = step(ON), step(OFF)
    assert error(on) < 1.2 * error(off)
    assert kept_on <= kept_off


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_base_in_four_bits_learns_the_same_in_groups(
    plan: Plan, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, *, double: bool
) -> None:
    """Nothing unpacked is kept: the bytes kept are those of the layers one by one, or fewer."""
    precision = Precision.BF16 if dtype is torch.bfloat16 else Precision.FP32
    optimization = replace(plan.optimization, precision=precision)
    method = Qlora(lora=Lora(rank=4, dropout=0.25), double_quantization=double)
    chosen, cpu = replace(plan, method=method, optimization=optimization), torch.device("cpu")
    step = Step(load(chosen, cpu), dtype=dtype)
    calls: list[int] = []
    count = lora_groups._outputs
    monkeypatch.setattr(lora_groups, "_outputs", lambda layers, x: calls.append(len(layers)) or count(layers, x))
    (on, grads_on, kept_on), (off, grads_off, kept_off) = step(ON), step(OFF)
    assert calls == [3, 1, 2, 1] * 2
    tolerance = 1e-5 if dtype is torch.float32 else 0.03
    torch.testing.assert_close(on, off, atol=0, rtol=tolerance)
    for name, grad in grads_on.items():
        assert float((grad - grads_off[name]).norm()) <= 3 * tolerance * float(grads_off[name].norm()), name
    assert kept_on <= kept_off


def test_without_dropout_and_with_checkpointing(tiny: Any) -> None:
    plain = Step(tiny("llama"), dropout=0.0)
    expected = plain(OFF)[1]
    model = tiny("llama")
    model.activation_checkpointing_enable({"use_reentrant": False})
    found = Step(model, dropout=0.0)
    for grads in (plain(ON)[1], found(ON)[1]):
        for name, grad in grads.items():
            torch.testing.assert_close(grad, expected[name], atol=1e-4, rtol=1e-3)


def test_the_same_step_gives_the_same_bits(tiny: Any) -> None:
    step = Step(tiny("llama"), dtype=torch.bfloat16)
    first, second = step(ON)[1], step(ON)[1]
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_reads_one_input_is_one_group(tiny: Any) -> None:
    step = Step(tiny("llama"))
    layers = [module for module in step.model.modules() if isinstance(module, LoraLinear)]
    with joined(step.model):
        # Of seven layers: query, key and value; output; gate and up; down.
        assert len({id(layer.sharing) for layer in layers}) == 2 * 4
    assert all(layer.sharing is None for layer in layers)


def test_layers_of_some_projections_are_groups_of_those(tiny: Any) -> None:
    step = Step(tiny("llama"), modules=("q_proj", "v_proj"))
    on, off = step(ON)[1], step(OFF)[1]
    for name, grad in on.items():
        torch.testing.assert_close(grad, off[name], atol=1e-4, rtol=1e-3)


def test_another_family_keeps_its_own_way(tiny: Any) -> None:
    step = Step(tiny("mixtral"))
    with joined(step.model):
        assert all(module.sharing is None for module in step.model.modules() if isinstance(module, LoraLinear))


def test_layers_that_are_more_than_lora_keep_their_own_way(tiny: Any) -> None:
    step = Step(tiny("llama"), weight_decomposed=True)
    with joined(step.model):
        assert all(module.sharing is None for module in step.model.modules() if isinstance(module, LoraLinear))


def test_a_layer_called_on_another_input_computes_alone(tiny: Any) -> None:
    step = Step(tiny("llama"), dropout=0.0)
    attention = step.model.get_decoder().layers[0].self_attn
    x, other = torch.randn(1, 6, 32), torch.randn(1, 6, 32)
    expected = attention.q_proj(x), attention.k_proj(other), attention.v_proj(x)
    with joined(step.model):
        found = attention.q_proj(x), attention.k_proj(other), attention.v_proj(x)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want)


def test_disabled_adapters_and_evaluation_are_the_base_and_no_dropout(tiny: Any) -> None:
    step = Step(tiny("llama"))
    layer = step.model.get_decoder().layers[0].self_attn.q_proj
    x = torch.randn(1, 6, 32)
    with joined(step.model), step.adapted.disable_adapter():
        torch.testing.assert_close(layer(x), layer.base_layer(x))
    step.model.eval()
    plain = layer(x)
    with joined(step.model):
        torch.testing.assert_close(layer(x), plain)
    assert not torch.allclose(plain, layer.base_layer(x))


def test_a_model_under_fully_shard_keeps_its_layers(tiny: Any) -> None:
    from torch.distributed.fsdp import FSDPModule

    step = Step(tiny("llama"))
    layers = [module for module in step.model.modules() if isinstance(module, LoraLinear)]
    block = step.model.get_decoder().layers[0]
    with faster(step.model):
        assert all(layer.sharing is not None for layer in layers)
    # What fully_shard does to a module's class, without a group of processes.
    block.__class__ = type("Sharded", (FSDPModule, type(block)), {})
    with faster(step.model):
        assert all(layer.sharing is None for layer in layers)
