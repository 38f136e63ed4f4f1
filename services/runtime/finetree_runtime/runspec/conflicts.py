# SPDX-License-Identifier: Apache-2.0
"""Which settings of a plan exclude each other, and which exceed its model: asked before anything is priced or run.

The recommender, the estimator and the trainer refuse the same plans for the same reasons; the worker, which never
imports this, is held to it by tests.
"""

from dataclasses import dataclass

from finetree_api.types.v1 import run_spec_pb2 as rs


@dataclass(frozen=True, slots=True)
class Problem:
    """Settings that cannot go together."""

    reason: str
    """Stable code, upper snake case."""
    field_path: str
    """RunSpec path of the setting to change."""
    message: str
    """What is wrong and what to do."""


def combination_problem(spec: rs.RunSpec) -> Problem | None:
    """The first pair of settings of a resolved spec that cannot go together, if there is one."""
    method = spec.WhichOneof("method")
    training = spec.training
    checkpointing = spec.gradient_checkpointing in (
        rs.GRADIENT_CHECKPOINTING_FULL,
        rs.GRADIENT_CHECKPOINTING_OFFLOADED,
    )
    if method == "prefix" and checkpointing:
        text = "prefix tuning keeps its keys and values in the cache that checkpointing drops; turn checkpointing off"
        return Problem("PREFIX_WITH_CHECKPOINTING", "gradient_checkpointing", text)
    if (problem := _experts_problem(spec)) is not None:
        return problem
    if training.micro_batch_size > training.effective_batch_size > 0:
        text = (
            f"a micro-batch of {training.micro_batch_size} rows is larger than the batch of "
            f"{training.effective_batch_size} rows that it is part of; lower it"
        )
        return Problem("MICRO_BATCH_TOO_LARGE", "training.micro_batch_size", text)
    return _machines_problem(spec.hardware)


def _machines_problem(hardware: rs.Hardware) -> Problem | None:
    """Devices are spread over the machines evenly."""
    devices, machines = max(1, hardware.count), max(1, hardware.nodes)
    if devices % machines == 0:
        return None
    text = f"{devices} devices are not spread evenly over {machines} machines; take a number that divides them"
    return Problem("NODES_UNEVEN", "hardware.nodes", text)


def _experts_problem(spec: rs.RunSpec) -> Problem | None:
    """Adapters of experts are added to stacked weights: no input is left to drop out, and DoRA has no rows to scale."""
    if spec.WhichOneof("method") != "lora" or not spec.lora.include_experts:
        return None
    if spec.lora.weight_decomposed:
        text = "does not go with adapters of experts, which are stacked parameters and no layers; turn one of them off"
        return Problem("EXPERTS_WITH_DORA", "lora.weight_decomposed", text)
    if spec.lora.dropout > 0:
        text = "adapters of experts are added to the weights, where no input is left to drop out; set it to 0"
        return Problem("EXPERTS_WITH_DROPOUT", "lora.dropout", text)
    return None


def sequence_problem(spec: rs.RunSpec, positions: int) -> Problem | None:
    """What is wrong with the sequence length of a resolved spec for a model of so many positions (0: unknown)."""
    length = spec.training.sequence_length
    if not 0 < positions < length:
        return None
    text = f"{length} tokens are more than the {positions} positions of the model; lower it to {positions} or less"
    return Problem("SEQUENCE_TOO_LONG", "training.sequence_length", text)
