# SPDX-License-Identifier: Apache-2.0
"""Which share of a model's weights an AdamW step moves at all, where the weights are kept in bfloat16.

    .venv/bin/python benchmarks/recommender/rounding.py [--models FOLDER] [--output benchmarks/results/recommender]

A step of AdamW changes a weight by about the learning rate where its gradients agree, and by less where they do not.
Two steps are taken for each rate: one that moves every weight by the rate, and one by uniform shares of it. Nothing is
trained: the weights are those of the demo's model, every 7th of its matrices' numbers.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m-instruct"
RATES = (5e-6, 1e-5, 2e-5, 3e-5, 5e-5, 1e-4, 2e-4, 4e-4)
EVERY, SEED = 7, 0


def unmoved(weights: torch.Tensor, update: torch.Tensor) -> float:
    """Share of bfloat16 weights that are the same after an update."""
    return float(((weights.float() + update).to(torch.bfloat16) == weights).float().mean())


def measure(weights: torch.Tensor) -> dict[str, Any]:
    """The shares at every rate."""
    generator = torch.Generator().manual_seed(SEED)
    shares = 2 * torch.rand(weights.numel(), generator=generator) - 1
    rates = [
        {
            "learning_rate": rate,
            "unmoved_by_the_rate": round(unmoved(weights, torch.sign(shares) * rate), 4),
            "unmoved_by_shares_of_it": round(unmoved(weights, shares * rate), 4),
        }
        for rate in RATES
    ]
    spread = round(float(weights.float().std()), 4)
    return {"benchmark": "rounding", "model": MODEL, "weights": weights.numel(), "std": spread, "rates": rates}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "finetree-test-cache")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/recommender")
    options = parser.parse_args()
    tensors = load_file(options.models / MODEL / "model.safetensors")
    matrices = [tensor.flatten()[::EVERY] for tensor in tensors.values() if tensor.ndim == 2]
    found = measure(torch.cat(matrices).to(torch.bfloat16))
    (options.output / "rounding.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
