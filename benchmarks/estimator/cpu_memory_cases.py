# SPDX-License-Identifier: Apache-2.0
"""The runs whose memory on a CPU is measured, and the files that a measured process reads."""

import json
import random
from collections.abc import Mapping, Sequence
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
CODES = 60
"""Countries of the method comparison's task "codes": 480 rows of about 36 tokens, and 120 questions."""
LORA = {"rank": 8, "alpha": 16.0, "dropout": 0.1, "targets": "TARGET_PRESET_ALL_LINEAR"}
SETTINGS: dict[str, tuple[tuple[str, Any], ...]] = {
    "full": (),
    "lora": tuple(LORA.items()),
    "qlora": (("lora", LORA), ("quantization", "QUANTIZATION_NF4"), ("double_quantization", True)),
    "prefix": (("virtual_tokens", 20), ("init", "PREFIX_INIT_TEXT")),
    "adapter": (("bottleneck_size", 64), ("placement", "ADAPTER_PLACEMENT_PFEIFFER")),
}
"""What the method comparison sets, by method (benchmarks/worker/method_runs.py)."""
ASKED = {"metrics": ["METRIC_LOSS", "METRIC_EXACT_MATCH"], "max_new_tokens": 5, "before_training": True}
"""How the method comparison evaluates."""


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

    `mean` 0 means rows that fill the sequence length, else rows of half to one and a half times it. `compared` takes
    the rows, the settings and the evaluation of the method comparison instead.
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
    compared: bool = False

    @property
    def name(self) -> str:
        """Unique among the cases."""
        parts = [self.model.removesuffix("-instruct"), self.method, self.precision, str(self.length)]
        parts += [f"mean{self.mean}"] if self.mean else []
        parts += [f"batch{self.batch}"] if self.batch != 4 else []
        parts += [f"targets{self.targets}"] if self.targets != 0.3 else []
        parts += ["checkpointing"] if self.checkpointing else []
        parts += [f"{key}={value}" for key, value in (*self.settings, *self.extra) if not self.compared]
        parts += ["as compared"] if self.compared else []
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
        return spec | ({"evaluation": ASKED} if self.compared else {}) | dict(self.extra)


def compared(method: str) -> Case:
    """The method comparison's run of the task "codes", its first 24 steps of 240."""
    precision = "bf16-mixed" if method == "full" else "bf16"
    return Case(SMOLLM2, method, 128, precision, steps=24, settings=SETTINGS[method], compared=True)


CASES = [
    # The first step is as high as any other: the preflight has made the optimizer's state.
    Case(SMOLLM2, "lora", 64, steps=1),
    Case(SMOLLM2, "full", 64, steps=1),
    # The same for the tests, in a format that every CPU multiplies fast: not all have instructions for bfloat16.
    Case(SMOLLM2, "lora", 64, "fp32", steps=1),
    Case(SMOLLM2, "full", 64, "fp32", steps=1),
    # Of a small model most of what is held is what a step keeps, which the way that it is computed decides.
    Case("llama-30m", "lora", 256, "fp32", steps=1),
    Case("llama-30m", "full", 256, "fp32", steps=1),
    Case("llama-30m", "lora", 256),
    Case("llama-30m", "lora", 1024),
    Case("llama-30m", "full", 256),
    Case("llama-30m", "full", 1024),
    Case(SMOLLM2, "lora", 256),
    Case(SMOLLM2, "lora", 1024, steps=2),
    Case(SMOLLM2, "full", 256),
    Case(SMOLLM2, "full", 1024, steps=2),
    *(
        Case(model, method, length, steps=2)
        for method in ("qlora", "prefix", "adapter")
        for model in ("llama-30m", SMOLLM2)
        for length in (256, 1024)
    ),
    *(compared(method) for method in SETTINGS),
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
    told = {"spec": case.spec(), "model_dir": str(models / case.model), "threads": 1}
    (folder / "case.json").write_text(json.dumps(told))
    if case.compared:
        from finetree_cli.demo.dataset import build

        built = build(CODES, 0)
        _write_rows(folder / "train.jsonl", built.train_rows)
        _write_rows(folder / "held_out.jsonl", built.eval_rows)
        return
    chance = random.Random(1)
    rows = []
    for _ in range(2 * case.batch):
        tokens = chance.randint(case.mean // 2, case.mean * 3 // 2) if case.mean else case.length
        words = chance.choices(WORDS, k=tokens + (0 if case.mean else 100))
        asked = max(1, int(tokens * (1 - case.targets)) - TEMPLATE)
        rows.append({"prompt": " ".join(words[:asked]), "completion": " ".join(words[asked:])})
    _write_rows(folder / "train.jsonl", rows)


def _write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
