# SPDX-License-Identifier: Apache-2.0
"""The runs whose memory on a CPU is measured, and the files that a measured process reads."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SMOLLM2 = "smollm2-135m-instruct"
# Dimensions that differ from SmolLM2-135M's: those of SmolLM2-360M, and a quarter of the 135M.
SIZES = {
    SMOLLM2: {},
    "llama-360m": {"hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 15,
                   "num_key_value_heads": 5, "head_dim": 64},
    "llama-30m": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6,
                  "num_key_value_heads": 2, "head_dim": 64},
}  # fmt: skip
WORDS = ("the", "of", "and", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on", "are", "with", "as")
TEMPLATE = 35
"""Tokens of SmolLM2's chat template around a question, its system prompt included."""
STEPS = 3


def shape(dimensions: dict[str, int]) -> dict[str, Any]:
    """A Llama with SmolLM2's vocabulary as the contract's ModelShape; only its model folder has a name."""
    renamed = {
        "num_hidden_layers": "layers",
        "num_attention_heads": "attention_heads",
        "num_key_value_heads": "kv_heads",
    }
    given = {renamed.get(name, name): value for name, value in dimensions.items()}
    return given | {"vocab_size": 49152, "tied_embeddings": True, "gated_mlp": True, "max_position_embeddings": 8192}


@dataclass(frozen=True)
class Case:
    """A run to measure. Lengths in tokens.

    `mean` 0 means rows that fill the sequence length, else rows of half to one and a half times it.
    """

    model: str
    method: str
    length: int
    precision: str = "bf16"
    checkpointing: bool = False
    batch: int = 4
    mean: int = 0
    targets: float = 0.3
    steps: int = STEPS
    settings: tuple[tuple[str, Any], ...] = ()
    extra: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Unique among the cases."""
        parts = [self.model.removesuffix("-instruct"), self.method, self.precision, str(self.length)]
        parts += [f"mean{self.mean}"] if self.mean else []
        parts += [f"batch{self.batch}"] if self.batch != 4 else []
        parts += [f"targets{self.targets}"] if self.targets != 0.3 else []
        parts += ["checkpointing"] if self.checkpointing else []
        parts += [f"{key}={value}" for key, value in (*self.settings, *self.extra)]
        return " ".join(parts)

    def spec(self) -> dict[str, Any]:
        """The RunSpec in proto JSON."""
        spec: dict[str, Any] = {
            "model": {"name": SMOLLM2} if self.model == SMOLLM2 else {"shape": shape(SIZES[self.model])},
            self.method: dict(self.settings),
            "training": {
                "max_steps": self.steps,
                "learning_rate": 1e-4,
                "effective_batch_size": self.batch,
                "micro_batch_size": 4,
                "sequence_length": self.length,
                "packing": "PACKING_ON",
            },
            "precision": "PRECISION_" + self.precision.upper().replace("-", "_"),
            "gradient_checkpointing": "GRADIENT_CHECKPOINTING_" + ("FULL" if self.checkpointing else "OFF"),
            "hardware": {"cpu": {"cores": 1, "memory_bytes": 64 * 2**30}},
        }
        return spec | dict(self.extra)


CASES = [
    Case(SMOLLM2, "lora", 64, steps=2),
    Case(SMOLLM2, "full", 64, steps=2),
    Case("llama-30m", "lora", 256),
    Case("llama-30m", "lora", 1024),
    Case("llama-30m", "full", 256),
    Case("llama-30m", "full", 1024),
    Case(SMOLLM2, "lora", 256),
    Case(SMOLLM2, "lora", 1024, steps=2),
    Case(SMOLLM2, "full", 256),
    Case(SMOLLM2, "full", 1024, steps=2),
    Case("llama-360m", "lora", 256, steps=2),
    Case("llama-360m", "full", 256, steps=2),
    Case(SMOLLM2, "lora", 256, "fp32"),
    Case(SMOLLM2, "full", 256, "fp32"),
    Case(SMOLLM2, "full", 256, "bf16-mixed"),
    Case(SMOLLM2, "lora", 1024, checkpointing=True, steps=2),
    Case(SMOLLM2, "full", 256, checkpointing=True),
    Case(SMOLLM2, "full", 256, batch=16),
    Case(SMOLLM2, "lora", 256, batch=32, mean=60),
    Case("llama-30m", "lora", 256, batch=32, mean=60, steps=20),
    Case("llama-30m", "full", 512, batch=32, mean=150, steps=8),
    Case(SMOLLM2, "lora", 256, targets=0.02),
    Case(SMOLLM2, "full", 256, targets=0.02),
    Case(SMOLLM2, "lora", 256, settings=(("dropout", 0.0), ("targets", "TARGET_PRESET_QUERY_VALUE"))),
]


def write_case(case: Case, folder: Path, models: Path) -> None:
    """The files that the measured process reads."""
    chance = random.Random(1)
    rows = []
    for _ in range(2 * case.batch):
        tokens = chance.randint(case.mean // 2, case.mean * 3 // 2) if case.mean else case.length
        words = chance.choices(WORDS, k=tokens + (0 if case.mean else 100))
        asked = max(1, int(tokens * (1 - case.targets)) - TEMPLATE)
        rows.append({"prompt": " ".join(words[:asked]), "completion": " ".join(words[asked:])})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "case.json").write_text(json.dumps({"spec": case.spec(), "model_dir": str(models / case.model)}))
