# SPDX-License-Identifier: Apache-2.0
"""What tests of generation share: adapters of every kind, requests, and what is said to them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from finetree_api.trainer.v1 import artifact_pb2, serving_pb2
from finetree_worker.generate.engine import Engine
from finetree_worker.methods.adapter import Adapter, AdapterPlacement
from finetree_worker.methods.lora import Lora
from finetree_worker.methods.prefix import Prefix
from finetree_worker.methods.weights import Weights
from finetree_worker.models.load import load_model, load_tokenizer
from finetree_worker.plan import BaseModel, DataPlan, Method, Optimization, Plan, Precision

LORA = Lora(rank=4, alpha=8.0, dropout=0.0)
METHODS: dict[str, Method] = {
    "lora4": LORA,
    "lora8": replace(LORA, rank=8, alpha=4.0),
    "rslora": replace(LORA, rank=16, rank_stabilized=True),
    "dora": replace(LORA, weight_decomposed=True),
    "attention": replace(LORA, modules=("q_proj", "v_proj")),
    "prefix": Prefix(6),
    "long-prefix": Prefix(11),
    "pfeiffer": Adapter(8),
    "houlsby": Adapter(8, AdapterPlacement.HOULSBY),
    "parallel": Adapter(8, AdapterPlacement.PARALLEL),
}
"""Ten targets: every method and setting that changes what is computed."""


def base_of(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The base in a folder, loaded anew."""
    model = load_model(folder, dtype, device=torch.device("cpu"))
    return model.requires_grad_(requires_grad=False).eval()


def trained(method: Method, base: Path, folder: Path, seed: int = 0) -> Weights:
    """An adapter of a method with weights that are neither zero nor any text's, saved as a training does."""
    model = base_of(base)
    optimization = Optimization(1e-3, 4, 4, epochs=1.0, precision=Precision.FP32)
    plan = Plan(BaseModel(base), DataPlan(base, base), method, optimization, work=folder, artifact=folder)
    adapted, _ = method.apply(model, plan)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    folder.mkdir(parents=True)
    method.save(adapted, folder, base=BaseModel(base), tokenizer=load_tokenizer(base), dtype=torch.float32)
    return Weights(folder.name, folder, artifact_pb2.ARTIFACT_KIND_ADAPTER)


def request(text: str = "hello", *targets: str, **sampling: Any) -> serving_pb2.GenerateRequest:
    """A prompt for some targets."""
    return serving_pb2.GenerateRequest(
        targets=targets or ["base"], prompt=text, sampling=serving_pb2.Sampling(**sampling)
    )


def run(engine: Engine, *requests: serving_pb2.GenerateRequest) -> list[serving_pb2.GenerateResponse]:
    """Everything that is said to each request, joined in one response; errors are raised."""
    for number, asked in enumerate(requests):
        engine.start(number, asked)
    said = [serving_pb2.GenerateResponse() for _ in requests]
    while engine.busy:
        for number, part in engine.step():
            if isinstance(part, Exception):
                raise part
            said[number].MergeFrom(part)
    return said


def texts(response: serving_pb2.GenerateResponse) -> list[str]:
    """The answers in the order of the targets."""
    found: dict[int, str] = {}
    for piece in response.pieces:
        found[piece.target_index] = found.get(piece.target_index, "") + piece.text
    return [found[index] for index in sorted(found)]


def finishes(response: serving_pb2.GenerateResponse) -> dict[int, serving_pb2.Finish]:
    """How each answer ended."""
    return {piece.target_index: piece.finish for piece in response.pieces if piece.HasField("finish")}
