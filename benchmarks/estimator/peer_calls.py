# SPDX-License-Identifier: Apache-2.0
"""Asks one other estimator, in an environment that has only it: cases as JSON on stdin, answers as JSON on stdout.

    PYTHON_OF_THE_PEER peer_calls.py ftuneai < cases.json > answers.json

It imports nothing of this project but `peer_lora` and `peer_words`. A case is what `peer_cases` makes of a measured
row; an answer holds `peak_bytes` (or null), `tokens_per_second` (or null) and, where there is no answer, `reason`: what
the peer cannot be told. Every peer is called through the function that its own program calls, with the exact parameter
count and dimensions.
"""

import contextlib
import json
import sys
from collections.abc import Callable

from peer_lora import canifinetune, fitcheck, ftuneai, unsloth
from peer_words import GIB, MANY_ROWS, Answer, CannotSayError, Case, only, recomputes, told


def gpu_estimator(case: Case) -> Answer:
    """gpu-estimator: parameters, batch, length, number format, checkpointing, a GPU's name; full fine-tuning only."""
    from gpu_estimator import GPUEstimator

    only(case, methods=("full",))
    cards = {
        "l40s": "L40",
        "a100-40gb": "A100",
        "h100": "H100",
        "h100-pcie": "H100",
        "a40": "A40",
        "t4": "T4",
        "l4": "L4",
    }
    cards |= {"rtx-4090": "RTX4090", "rtx-3090": "RTX3090"}
    found = GPUEstimator().estimate(
        model_params=case["parameters"],
        batch_size=case["micro_batch"],
        sequence_length=case["sequence_length"],
        precision=case["weights"],
        optimizer=told({"adamw": "adamw", "sgd": "sgd"}, case["optimizer"], "the optimizer"),
        gpu_type=cards.get(case["accelerator"], "A100"),
        gradient_checkpointing=recomputes(case),
        dataset_size=MANY_ROWS,
        epochs=1,
    )
    seconds = found.estimated_training_hours * 3600 * found.num_gpus
    tokens = MANY_ROWS * case["sequence_length"]
    return {"peak_bytes": found.total_memory_gb * GIB, "tokens_per_second": tokens / seconds}


def alloc(case: Case) -> Answer:
    """alloc: parameters, width, batch, length, number format, optimizer; full fine-tuning only, no checkpointing."""
    from alloc.ghost import ghost

    only(case, methods=("full",))
    if recomputes(case):
        raise CannotSayError("gradient checkpointing")
    optimizers = {"adamw": "AdamW", "adamw-8bit": "AdamW8bit", "paged-adamw-8bit": "AdamW8bit"}
    optimizers |= {"adafactor": "Adafactor", "sgd": "SGD"}
    found = ghost(
        param_count=case["parameters"],
        dtype="float32" if case["weights"] == "fp32" else "bfloat16",
        batch_size=case["micro_batch"],
        seq_length=case["sequence_length"],
        hidden_dim=case["hidden"],
        optimizer_type=optimizers[case["optimizer"]],
    )
    return {"peak_bytes": found.total_gb * GIB}


PEERS: dict[str, Callable[[Case], Answer]] = {
    "ftuneai": ftuneai,
    "canifinetune": canifinetune,
    "fitcheck-llm": fitcheck,
    "unsloth": unsloth,
    "gpu-estimator": gpu_estimator,
    "alloc": alloc,
}


def _answer(peer: Callable[[Case], Answer], case: Case) -> Answer:
    nothing: Answer = {"peak_bytes": None, "tokens_per_second": None, "reason": ""}
    try:
        return nothing | peer(case)
    except CannotSayError as reason:
        return nothing | {"reason": f"cannot be told: {reason}"}
    except (ValueError, KeyError) as error:
        return nothing | {"reason": f"{type(error).__name__}: {error}"}


def main() -> int:
    """Answer all cases; whatever a peer prints goes to stderr."""
    peer = PEERS[sys.argv[1]]
    cases = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        answers = [_answer(peer, case) for case in cases]
    json.dump(answers, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
