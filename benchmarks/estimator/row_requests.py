# SPDX-License-Identifier: Apache-2.0
"""What EstimateRun is asked for a published measurement (rows.py)."""

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import hardware_pb2, method_pb2, model_pb2, run_spec_pb2, training_data_pb2, training_pb2
from rows import ALL_LINEAR, ATTENTION, OPTIMIZERS, PRECISIONS, QUANTIZATIONS, MeasuredRow


def request(row: MeasuredRow) -> estimate_pb2.EstimateRunRequest:
    """What EstimateRun is asked for a row. Raises ValueError when the row is not answerable."""
    if not row.answerable:
        raise ValueError(f"{row.published_model}, {row.published_method}: nothing to ask for")
    spec = run_spec_pb2.RunSpec(
        model=model_pb2.ModelSource(shape=row.shape)
        if row.shape is not None
        else model_pb2.ModelSource(name=row.model or ""),
        training=_training(row),
        precision=PRECISIONS[row.precision],
        optimizer=OPTIMIZERS[row.optimizer.lower()],
        attention=ATTENTION[row.attention],
        gradient_checkpointing=training_pb2.GRADIENT_CHECKPOINTING_FULL
        if row.checkpointing
        else training_pb2.GRADIENT_CHECKPOINTING_OFF,
        loss_kernel=row.loss,
        hardware=_hardware(row),
    )
    _set_method(spec, row)
    spec.program.program = row.program
    found = estimate_pb2.EstimateRunRequest(spec=spec)
    found.dataset_profile.CopyFrom(_profile(row))
    return found


def _training(row: MeasuredRow) -> training_pb2.Training:
    return training_pb2.Training(
        epochs=1.0,
        effective_batch_size=row.micro_batch * row.accumulation * row.devices,
        micro_batch_size=row.micro_batch,
        sequence_length=row.sequence_length,
        packing=training_pb2.PACKING_OFF,
        loss_tokens=training_pb2.LOSS_TOKENS_ALL,
    )


def _hardware(row: MeasuredRow) -> hardware_pb2.Hardware:
    # Every published run on several devices is FSDP with FULL_SHARD: LitGPT and LLM Foundry say so row by row, IBM's
    # benchmark in its README (distributed_backend, fsdp_sharding_strategy).
    sharding = hardware_pb2.SHARDING_FULL if row.devices > 1 else hardware_pb2.SHARDING_UNSPECIFIED
    return hardware_pb2.Hardware(accelerator=row.accelerator, count=row.devices, sharding=sharding, nodes=row.nodes)


def _set_method(spec: run_spec_pb2.RunSpec, row: MeasuredRow) -> None:
    if row.method == "full":
        spec.full.SetInParent()
    elif row.method == "prefix":
        spec.prefix.virtual_tokens = row.virtual_tokens
    elif row.method == "qlora":
        spec.qlora.lora.CopyFrom(_lora(row))
        spec.qlora.quantization = QUANTIZATIONS[row.quant] or method_pb2.QUANTIZATION_NF4
        spec.qlora.double_quantization = row.quant == "nf4-dq"
    else:
        spec.lora.CopyFrom(_lora(row))


def _lora(row: MeasuredRow) -> method_pb2.Lora:
    preset = row.targets == (ALL_LINEAR,)
    return method_pb2.Lora(
        rank=row.rank,
        dropout=row.dropout,
        targets=method_pb2.TARGET_PRESET_ALL_LINEAR if preset else method_pb2.TARGET_PRESET_UNSPECIFIED,
        target_modules=() if preset else row.targets,
        rank_stabilized=row.variant == "rslora",
        weight_decomposed=row.variant == "dora",
    )


def _profile(row: MeasuredRow) -> training_data_pb2.DatasetProfile:
    """The rows' lengths as far as they are known; without a number of rows, a thousand steps' worth of them."""
    examples = row.examples or 1000 * row.micro_batch * row.accumulation * row.devices
    profile = training_data_pb2.DatasetProfile(
        examples=examples, total_tokens=row.total_tokens or None, exact=row.total_tokens > 0
    )
    if row.every_row_full:
        profile.token_lengths.add(upper_bound=row.sequence_length, count=examples)
        profile.total_tokens = examples * row.sequence_length
        profile.exact = True
    return profile
