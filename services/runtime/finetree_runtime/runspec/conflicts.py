# SPDX-License-Identifier: Apache-2.0
"""Settings of a RunSpec that exclude each other, or exceed the model.

The recommender, the estimator and the trainer refuse the same specs with the same reasons; tests hold the worker, which
does not import this, to the same refusals.
"""

from dataclasses import dataclass

from finetree_api.types.v1 import hardware_pb2, run_spec_pb2, training_pb2


@dataclass(frozen=True, slots=True)
class Problem:
    """A setting of a spec that has to change."""

    reason: str
    """Reason of the error, UPPER_SNAKE."""
    field_path: str
    """RunSpec path of the setting to change."""
    message: str
    """What is wrong and what to do."""


def combination_problem(spec: run_spec_pb2.RunSpec) -> Problem | None:
    """Find the first setting of a resolved spec that another one excludes."""
    method = spec.WhichOneof("method")
    training = spec.training
    checkpointing = spec.gradient_checkpointing in (
        training_pb2.GRADIENT_CHECKPOINTING_FULL,
        training_pb2.GRADIENT_CHECKPOINTING_OFFLOADED,
    )
    if method == "prefix" and checkpointing:
        text = "prefix tuning keeps its keys and values in the cache, which checkpointing drops; turn checkpointing off"
        return Problem("PREFIX_WITH_CHECKPOINTING", "gradient_checkpointing", text)
    if (problem := _experts_problem(spec)) is not None:
        return problem
    if training.micro_batch_size > training.effective_batch_size > 0:
        text = (
            f"a micro-batch of {training.micro_batch_size} rows is larger than the batch of "
            f"{training.effective_batch_size} rows; lower it"
        )
        return Problem("MICRO_BATCH_TOO_LARGE", "training.micro_batch_size", text)
    hardware = spec.hardware
    # A GPU's job has no cores; those of a CPU are unknown where nobody says them.
    return _machines_problem(hardware) or threads_problem(hardware.count, hardware.cpu.cores)


def _machines_problem(hardware: hardware_pb2.Hardware) -> Problem | None:
    """Find out whether the devices spread evenly over the machines."""
    devices, machines = max(1, hardware.count), max(1, hardware.nodes)
    if devices % machines == 0:
        return None
    text = f"{devices} devices do not spread evenly over {machines} machines; use a divisor of {devices}"
    return Problem("NODES_UNEVEN", "hardware.nodes", text)


def threads_problem(processes: int, threads: int) -> Problem | None:
    """Find out whether a run on a CPU has more processes than there are `threads` to share (0: unknown)."""
    if not 0 < threads < processes:
        return None
    text = f"{processes} processes share {threads} {'thread' if threads == 1 else 'threads'} of a CPU, and each needs "
    text += f"one of its own; lower it to {threads}"
    return Problem("THREADS_TOO_FEW", "hardware.count", text)


def _experts_problem(spec: run_spec_pb2.RunSpec) -> Problem | None:
    """Find what adapters of experts exclude: on stacked weights there is no input to drop out and no DoRA."""
    if spec.WhichOneof("method") != "lora" or not spec.lora.include_experts:
        return None
    if spec.lora.weight_decomposed:
        text = "experts are stacked parameters, not layers, so their adapters cannot use DoRA; turn one of them off"
        return Problem("EXPERTS_WITH_DORA", "lora.weight_decomposed", text)
    if spec.lora.dropout > 0:
        text = "adapters of experts are added to the weights, where there is no input to drop out; set it to 0"
        return Problem("EXPERTS_WITH_DROPOUT", "lora.dropout", text)
    return None


def sequence_problem(spec: run_spec_pb2.RunSpec, positions: int) -> Problem | None:
    """Find out whether the sequences of a resolved spec are longer than the model's `positions` (0: unknown)."""
    length = spec.training.sequence_length
    if not 0 < positions < length:
        return None
    text = f"{length} tokens are more than the {positions} positions of the model; lower it to {positions} or less"
    return Problem("SEQUENCE_TOO_LONG", "training.sequence_length", text)
