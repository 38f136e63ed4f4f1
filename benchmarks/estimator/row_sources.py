# SPDX-License-Identifier: Apache-2.0
"""What the sources of published measurements say in prose of all their rows: program, loss, what a peak is.

Four sources were read, and stand here with where it is said. Of any other one a table of the same columns is read by
its words: what trains by the name of the program in its source or notes (transformers where none is named), what its
peaks are by how they were read ("max_memory_allocated", "max_memory_reserved", "nvidia-smi"), and so on. Nothing that
is read so enters a fit.
"""

import re
from dataclasses import dataclass

from finetree_api.types.v1 import training_pb2


@dataclass(frozen=True, slots=True)
class Source:
    """What holds for all rows of a source."""

    family: str
    """Of sources: peft, ibm, litgpt, llm-foundry; the repository, or the first word, of any other."""
    program: training_pb2.TrainingProgram.ValueType
    quantity: str
    """What a peak is: allocated, reserved or device."""
    loss: training_pb2.LossKernel.ValueType = training_pb2.LOSS_KERNEL_FULL_LOGITS
    dropout: float = 0.05
    """Of adapters."""
    accumulation: int = 1
    """Micro-batches of a step, where a row does not say."""
    full_rows: bool = False
    """Whether every row has the sequence length."""


KNOWN = {
    # PEFT's comparison sets no dropout and prints max_memory_reserved.
    "huggingface/peft": Source("peft", training_pb2.TRAINING_PROGRAM_TRANSFORMERS, "reserved", dropout=0.0),
    # fms-hf-tuning's dropout; accumulation as in the README of IBM/ado's sfttrainer actuator; peaks are NVML's.
    "Kavier": Source("ibm", training_pb2.TRAINING_PROGRAM_TRANSFORMERS, "device", accumulation=4, full_rows=True),
    # LitGPT's scripts compute the logits in chunks of 128 positions (finetune/lora.py, lm_head_chunk_size).
    "litgpt": Source("litgpt", training_pb2.TRAINING_PROGRAM_LITGPT, "allocated", training_pb2.LOSS_KERNEL_CHUNKED),
    "llm-foundry": Source("llm-foundry", training_pb2.TRAINING_PROGRAM_LLM_FOUNDRY, "allocated", full_rows=True),
}
"""By what names them in the column `source`."""

_PROGRAMS = {
    "torchtune": training_pb2.TRAINING_PROGRAM_TORCHTUNE,
    "unsloth": training_pb2.TRAINING_PROGRAM_UNSLOTH,
    "axolotl": training_pb2.TRAINING_PROGRAM_AXOLOTL,
    "llama-factory": training_pb2.TRAINING_PROGRAM_AXOLOTL,
    "llamafactory": training_pb2.TRAINING_PROGRAM_AXOLOTL,
    "lit-gpt": training_pb2.TRAINING_PROGRAM_LITGPT,
    "own loop": training_pb2.TRAINING_PROGRAM_PYTORCH,
}
_QUANTITIES = {
    "allocated": r"max_memory_allocated|allocated",
    "reserved": r"max_memory_reserved|reserved",
    "device": r"nvidia-smi|nvml|pynvml|memory in use",
}
_LOSSES = {
    training_pb2.LOSS_KERNEL_FUSED: r"liger|fused (linear )?cross|cut cross|unsloth",
    training_pb2.LOSS_KERNEL_CHUNKED: r"chunked",
}


def source_of(source: str, note: str) -> Source:
    """What holds for the rows of a source, as its column and the row's note name it."""
    for part, known in KNOWN.items():
        if part in source:
            return known
    words = f"{source} {note}".lower()
    program = next(
        (found for name, found in _PROGRAMS.items() if name in words), training_pb2.TRAINING_PROGRAM_TRANSFORMERS
    )
    quantity = next((name for name, pattern in _QUANTITIES.items() if re.search(pattern, words)), "reserved")
    loss = next(
        (kind for kind, pattern in _LOSSES.items() if re.search(pattern, words)), training_pb2.LOSS_KERNEL_FULL_LOGITS
    )
    return Source(_name(source), program, quantity, loss, full_rows="padded to their own" not in words)


def _name(source: str) -> str:
    repository = re.match(r"(?:github|hf):([\w.-]+/[\w.-]+)", source)
    return repository.group(1) if repository else source.split(maxsplit=1)[0]
