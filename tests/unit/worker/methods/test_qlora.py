# SPDX-License-Identifier: Apache-2.0
"""What is quantized of a base, and how."""

from dataclasses import replace

import pytest
import torch
from finetree_worker.methods.qlora import Qlora, Quantization
from finetree_worker.models import load as base_models
from finetree_worker.plan import Plan
from finetree_worker.training.run import adapt, load
from worker_harness import METHODS, dequantized

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_four_bit_products_are_computed_in_the_type_of_the_run(dtype: torch.dtype) -> None:
    """bitsandbytes computes in float32 by default, many times slower on a GPU."""
    settings = Qlora(quantized_as=Quantization.NF4).quantization(dtype)
    assert (settings.bnb_4bit_compute_dtype, settings.bnb_4bit_quant_type) == (dtype, "nf4")
    assert base_models.placement(CUDA, settings)["device_map"] == {"": "cuda:0"}
    assert base_models.placement(torch.device("cuda", 1), settings)["device_map"] == {"": "cuda:1"}
    assert base_models.placement(CPU, settings)["device_map"] == {"": "cpu"}
    assert base_models.placement(CUDA, None) == {}


def test_a_quantized_base_keeps_its_head_and_embeddings_and_has_all_its_parameters(plan: Plan) -> None:
    plain = base_models.load_model(plan.base.folder, torch.float32, device=CPU)
    model = load(replace(plan, method=METHODS["nf4"]), CPU)
    assert model.get_input_embeddings().weight.dtype == torch.float32
    assert model.get_output_embeddings().weight.dtype == torch.float32
    assert len(dequantized(model)) == 2 * 7
    count = sum(base_models.parameter_count(p) for p in model.parameters())
    assert count == sum(p.numel() for p in plain.parameters())


def test_evaluating_a_quantized_model_leaves_its_weights_as_they_were(plan: Plan) -> None:
    """A CPU with bfloat16 instructions would pack them for a kernel that has no backward pass."""
    chosen = replace(plan, method=METHODS["nf4"])
    adapted, subject = adapt(chosen, load(chosen, CPU), CPU)
    before = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    subject.model.eval()
    with torch.inference_mode():
        subject.model(input_ids=torch.arange(5)[None])
        subject.model(input_ids=torch.arange(1)[None])
    assert all(torch.equal(before[name], p) for name, p in adapted.named_parameters())
