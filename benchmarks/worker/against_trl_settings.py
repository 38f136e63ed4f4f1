# SPDX-License-Identifier: Apache-2.0
"""What both sides of against_trl.py are told, and the ways in which a peer may be set up."""

from typing import Any

ROWS, HELD_OUT = 400, 16
BATCH, LENGTH = 16, 1024
"""Rows of a step, 2,880 tokens in the mean, and the longest sequence; three of the peer's packed rows are a step."""
RANK, ALPHA, DROPOUT, VIRTUAL_TOKENS, BOTTLENECK = 8, 16, 0.1, 20, 64
RATES = {"lora": 2e-4, "qlora": 2e-4, "full": 2e-5, "prefix": 1e-2, "adapter": 2e-4}


def packed(strategy: str, length: int, *, autocast: bool = True, compiled: str = "") -> dict[str, Any]:
    """A way of TRL's to pack: rows of `length` tokens, one a micro-batch."""
    way = {"packing": strategy, "length": length, "micro_batch": 1, "accumulation": 3 * LENGTH // length}
    # One shape, or it compiles at every step.
    shape = {"pad_to": length} if compiled else {}
    return way | shape | {"weights": "bfloat16", "autocast": autocast, "compile": compiled}


def padded(rows: int, *, autocast: bool = True, weights: str = "bfloat16") -> dict[str, Any]:
    """Without packing: rows of like length padded to the longest."""
    way = {"packing": "", "micro_batch": rows, "accumulation": BATCH // rows, "weights": weights}
    return way | {"autocast": autocast, "compile": ""}


WAYS = {
    "lora": [
        padded(4),
        padded(8),
        padded(16),
        packed("bfd", 1024),
        packed("bfd", 1024, autocast=False),
        packed("bfd", 512),
        packed("wrapped", 1024),
        packed("bfd", 1024, compiled="layers"),
        packed("bfd", 1024, autocast=False, compiled="model"),
    ],
    "qlora": [padded(4), padded(8), padded(16), packed("bfd", 1024)],
    "full": [
        padded(4, autocast=False),
        padded(8, autocast=False),
        padded(16, autocast=False),
        packed("bfd", 1024, autocast=False),
    ],
    # peft's prefix does not know where a packed row's documents begin.
    "prefix": [padded(4), padded(8), padded(16)],
    "adapter": [
        padded(8, autocast=False),
        padded(4, autocast=False),
        padded(16, autocast=False),
        padded(4, weights="float32"),
    ],
}
"""What each peer may do, the likely best first; where a way fails the error is kept."""


def method_spec(method: str) -> dict[str, Any]:
    """The method's part of the RunSpec."""
    lora = {"rank": RANK, "alpha": ALPHA, "dropout": DROPOUT}
    return {
        "lora": {"lora": lora},
        "qlora": {"qlora": {"lora": lora, "quantization": "QUANTIZATION_NF4", "double_quantization": True}},
        "full": {"full": {}},
        "prefix": {"prefix": {"virtual_tokens": VIRTUAL_TOKENS, "init": "PREFIX_INIT_ZERO"}},
        "adapter": {"adapter": {"bottleneck_size": BOTTLENECK, "placement": "ADAPTER_PLACEMENT_PFEIFFER"}},
    }[method]


def smaller(way: dict[str, Any]) -> dict[str, Any]:
    """The same way with a third or a quarter of a step's rows: enough to see how fast it is."""
    return way | {"accumulation": max(1, way["accumulation"] // 3)}


def in_float32(way: dict[str, Any]) -> dict[str, Any]:
    """The same way in float32."""
    return way | {"weights": "float32", "autocast": False}


def spec(method: str, steps: int, batch: int = BATCH, precision: str = "bf16") -> dict[str, Any]:
    """The run of this project's side, in proto JSON."""
    training = {
        "max_steps": steps,
        "learning_rate": RATES[method],
        "warmup_ratio": 0.0,
        "effective_batch_size": batch,
        # What the recommender's recipes for a CPU say: the whole batch at once.
        "micro_batch_size": batch,
        "sequence_length": LENGTH,
        "packing": "PACKING_ON",
        "seed": 1,
    }
    evaluation = {"before_training": True, "metrics": ["METRIC_LOSS"]}
    return {
        "training": training,
        "precision": f"PRECISION_{precision.upper()}",
        "evaluation": evaluation,
    } | method_spec(method)


def described(way: dict[str, Any]) -> str:
    """A way in a few words."""
    rows = f"{way['packing']} packing to {way['length']}" if way["packing"] else f"{way['micro_batch']} padded rows"
    extras = ["autocast"] if way["autocast"] else []
    return ", ".join([rows, *extras, *([f"compiled {way['compile']}"] if way["compile"] else [])])
