# SPDX-License-Identifier: Apache-2.0
"""The runs of the method comparison: which there are, in which order, and the spec of each."""

from dataclasses import dataclass
from typing import Any

from method_tasks import SEEDS, TUNING_SEED

METHODS = ("full", "lora", "qlora", "prefix", "adapter")
MODEL = "smollm2-135m-instruct"
EPOCHS, BATCH, LENGTH = 2, 4, 128
ANSWER_TOKENS = 5
"""Longest answer that is generated: no code or label has more than four tokens, and the end of the turn is one."""

LORA = {"rank": 8, "alpha": 16.0, "dropout": 0.1, "targets": "TARGET_PRESET_ALL_LINEAR"}
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": LORA,
    "qlora": {"lora": LORA, "quantization": "QUANTIZATION_NF4", "double_quantization": True},
    "prefix": {"virtual_tokens": 20, "init": "PREFIX_INIT_TEXT"},
    "adapter": {"bottleneck_size": 64, "placement": "ADAPTER_PLACEMENT_PFEIFFER"},
}
"""As the playbook's recipes set them."""
PRECISIONS = {"full": "PRECISION_BF16_MIXED"}
"""Full fine-tuning updates float32 weights, as the other methods do: bfloat16 would round small updates away."""
TASKS = ("codes", "tweets")
TUNED_ON = "codes"
"""Task whose rows to tune on choose the rates, for both tasks."""
RATES: dict[str, tuple[float, ...]] = {
    "full": (2e-5, 5e-5, 1e-4, 2e-4, 4e-4, 8e-4),
    "lora": (5e-4, 1e-3, 2e-3, 4e-3),
    "prefix": (5e-3, 1e-2, 3e-2, 1e-1),
    "adapter": (5e-4, 1e-3, 2e-3, 4e-3),
}
"""Learning rates that are tried on the rows to tune on: the recommender's or about it, and on until more is no gain."""
AS_GOOD = 1.05
"""Times the lowest loss: more than that is worse, less is chance on thirty held-out rows."""
SAME_RATE = {"qlora": "lora"}
"""Methods that take the rate of another: QLoRA trains the same adapters."""


@dataclass(frozen=True, slots=True)
class Run:
    """One training run. `purpose` is "scored", "tuning" or "speed"; `steps` 0 means whole epochs."""

    task: str
    method: str
    rate: float
    seed: int = 0
    purpose: str = "scored"
    steps: int = 0

    @property
    def name(self) -> str:
        """Unique among the runs of a state folder; its file's name."""
        last = f"{self.rate:g}" if self.purpose == "tuning" else f"seed{self.seed}"
        return "-".join([self.purpose, self.task, self.method, last] + ([f"steps{self.steps}"] if self.steps else []))

    @property
    def rows_seed(self) -> int:
        """What chooses the rows."""
        return TUNING_SEED if self.purpose == "tuning" else self.seed

    def spec(self) -> dict[str, Any]:
        """The RunSpec in proto JSON, but for the machine that it runs on."""
        training = {
            **({"max_steps": self.steps} if self.steps else {"epochs": EPOCHS}),
            "learning_rate": self.rate,
            "schedule": "SCHEDULE_COSINE",
            "warmup_ratio": 0.1,
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
            "effective_batch_size": BATCH,
            "micro_batch_size": BATCH,
            "sequence_length": LENGTH,
            "packing": "PACKING_ON",
            "loss_tokens": "LOSS_TOKENS_COMPLETIONS",
            "seed": self.seed,
        }
        return {
            "model": {"name": MODEL},
            self.method: SETTINGS[self.method],
            "training": training,
            "precision": PRECISIONS.get(self.method, "PRECISION_BF16"),
            "optimizer": "OPTIMIZER_ADAMW",
            "attention": "ATTENTION_KERNEL_SDPA",
            "gradient_checkpointing": "GRADIENT_CHECKPOINTING_OFF",
            "evaluation": self._evaluation(),
        }

    def _evaluation(self) -> dict[str, Any]:
        if self.purpose == "tuning":
            return {"metrics": ["METRIC_LOSS"]}
        if self.purpose == "speed" and self.seed:
            # One evaluation is enough to time.
            return {}
        asked = {"metrics": ["METRIC_LOSS", "METRIC_EXACT_MATCH"], "max_new_tokens": ANSWER_TOKENS}
        return asked | {"before_training": self.purpose == "scored"}


def tuning_runs() -> list[Run]:
    """The runs that the learning rates are chosen by."""
    listed = [(method, rate) for method in RATES for rate in RATES[method]]
    return [Run(TUNED_ON, method, rate, purpose="tuning") for method, rate in listed]


def chosen_rate(losses: dict[float, float]) -> float:
    """The lowest rate whose held-out loss on the rows to tune on is as good as the lowest."""
    best = min(losses.values())
    return min(rate for rate, loss in losses.items() if loss <= best * AS_GOOD)


def scored_order() -> list[tuple[str, str, int]]:
    """(task, method, seed) in the order of running: wherever it is cut, each method has about as many runs."""
    first, *others = SEEDS
    blocks = [("codes", first), ("tweets", first), *(("codes", seed) for seed in others)]
    return [(task, method, seed) for task, seed in blocks for method in METHODS]
