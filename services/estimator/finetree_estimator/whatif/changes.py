# SPDX-License-Identifier: Apache-2.0
"""Changes of a spec that lower a run's memory, each with what it costs: the material that remedies are made of."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_runtime.runspec.resolve import canonical, resolved_spec
from google.protobuf import json_format

from finetree_estimator.spec.parse import ParsedRequest

SHORTEST = 128
"""Tokens below which a sequence length is not halved."""
STEPS = 3
"""Halvings of a sequence length that are offered; of a micro-batch, besides one row."""
MOST_DEVICES = 8
"""Devices up to which more of them are offered: one machine's."""
LARGE_STATES = 0.02
"""Share of the device from which on 8-bit optimizer states are worth their while."""

_MICRO_BATCH, _SHARDING, _IN_BACKWARD = "training.micro_batch_size", "hardware.sharding", "optimizer_in_backward"
_CHECKPOINTING = "gradient_checkpointing"
MAJOR = ("method", "devices")
"""Groups whose changes are made only where all smaller ones do not do."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to change: new values, as proto JSON, by RunSpec path.

    Of a `group` at most one change is made; `level` says how far it goes there. `excludes` are groups that say nothing,
    or the opposite, beside it. `harm` orders changes (own judgement): below 10 they cost speed alone, below 20 perhaps
    quality, below 30 whole rows or hardware, and from 30 on it is another method.
    """

    group: str
    level: int
    harm: int
    summary: str
    patches: tuple[tuple[str, str], ...]
    excludes: frozenset[str] = frozenset()

    def goes_with(self, others: Iterable["Change"]) -> bool:
        """Whether it can be made beside others."""
        return all(
            self.group != other.group and self.group not in other.excludes and other.group not in self.excludes
            for other in others
        )


def applicable(parsed: ParsedRequest) -> list[Change]:
    """Changes of a run that may lower its memory, in no particular order."""
    spec = parsed.spec
    found = [*_kernels(spec), *_micro_batch(spec), *_checkpointing(spec), *_sequence(spec), *_base(spec)]
    found += [*_optimizer(parsed), *_in_backward(parsed), *_precision(parsed)]
    found += [*_sharding(parsed), *_devices(parsed), *_method(parsed)]
    return found


def apply_patch(spec: rs.RunSpec, path: str, json_value: str) -> None:
    """Set the field at a RunSpec path to a value in proto JSON; a member of a oneof replaces the other."""
    value = json.loads(json_value)
    for name in reversed(path.split(".")):
        value = {name: value}
    json_format.ParseDict(value, spec)


def _kernels(spec: rs.RunSpec) -> Iterator[Change]:
    if spec.attention == rs.ATTENTION_KERNEL_EAGER:
        yield _one("attention", '"ATTENTION_KERNEL_SDPA"', 1, 1, "attention that stores no scores")
    if spec.loss_kernel == rs.LOSS_KERNEL_FULL_LOGITS:
        kernel = '"LOSS_KERNEL_COMPLETION_ONLY"'
        yield _one("loss_kernel", kernel, 1, 1, "logits only where something is learned")
    if spec.loss_kernel != rs.LOSS_KERNEL_FUSED:
        yield _one("loss_kernel", '"LOSS_KERNEL_FUSED"', 2, 5, "a fused loss kernel")


def _micro_batch(spec: rs.RunSpec) -> Iterator[Change]:
    """Half, a quarter and so on, and one row: more micro-steps, each less efficient."""
    size = spec.training.micro_batch_size
    smaller = sorted({size >> step for step in range(1, STEPS + 1)} - {0} | {1} - {size}, reverse=True)
    for level, rows in enumerate(smaller, start=1):
        text = "one row at a time" if rows == 1 else f"{rows} rows at a time"
        yield _one(_MICRO_BATCH, str(rows), level, 1 + level, text)


def _checkpointing(spec: rs.RunSpec) -> Iterator[Change]:
    path, now = _CHECKPOINTING, spec.gradient_checkpointing
    if spec.WhichOneof("method") == "prefix" or now == rs.GRADIENT_CHECKPOINTING_OFFLOADED:
        return
    if now == rs.GRADIENT_CHECKPOINTING_OFF:
        yield _one(path, '"GRADIENT_CHECKPOINTING_FULL"', 1, 6, "recompute activations")
    if not _on_cpu(spec):
        text = "recompute activations, layer inputs on the host"
        yield _one(path, '"GRADIENT_CHECKPOINTING_OFFLOADED"', 2, 9, text)


def _sequence(spec: rs.RunSpec) -> Iterator[Change]:
    for level in range(1, STEPS + 1):
        length = spec.training.sequence_length >> level
        if length < SHORTEST:
            return
        text = f"rows cut at {length} tokens"
        yield _one("training.sequence_length", str(length), level, 20 + 3 * (level - 1), text)


def _base(spec: rs.RunSpec) -> Iterator[Change]:
    """A quantised base can be quantised further."""
    if spec.WhichOneof("method") != "qlora":
        return
    if spec.qlora.quantization == rs.QUANTIZATION_INT8:
        patches = (("qlora.quantization", '"QUANTIZATION_NF4"'), ("qlora.double_quantization", "true"))
        yield Change("qlora.quantization", 1, 10, "4 bits in place of 8", patches)
    elif not spec.qlora.double_quantization and spec.qlora.quantization != rs.QUANTIZATION_GPTQ_INT4:
        yield _one("qlora.double_quantization", "true", 1, 1, "double quantisation")


def _optimizer(parsed: ParsedRequest) -> Iterator[Change]:
    """8-bit states, where the states are large; a CPU has no kernels for them."""
    run, spec = parsed.run, parsed.spec
    states = 2 * run.master_bytes * run.method.trainable_parameters(run.shape)
    if _on_cpu(spec) or states < LARGE_STATES * run.device.usable_bytes:
        return
    if spec.optimizer == rs.OPTIMIZER_ADAMW:
        yield _one("optimizer", '"OPTIMIZER_ADAMW_8BIT"', 1, 7, "8-bit optimizer states")
    if spec.optimizer in (rs.OPTIMIZER_ADAMW, rs.OPTIMIZER_ADAMW_8BIT):
        text = "8-bit optimizer states that spill to the host"
        yield _one("optimizer", '"OPTIMIZER_PAGED_ADAMW_8BIT"', 2, 8, text)


def _in_backward(parsed: ParsedRequest) -> Iterator[Change]:
    """Updates in the backward pass: a batch is then one micro-batch, and its gradients are never clipped together."""
    run, training = parsed.run, parsed.spec.training
    if not run.method.trains_base or parsed.spec.optimizer_in_backward:
        return
    for level, rows in enumerate(sorted({run.micro_batch, 1}, reverse=True), start=1):
        patches, batch = [(_IN_BACKWARD, "true")], rows * run.devices
        # Another batch means another micro-batch too, where the request names none.
        if rows != run.micro_batch or batch != run.batch:
            patches.append((_MICRO_BATCH, str(rows)))
        if batch != run.batch:
            patches.append(("training.effective_batch_size", str(batch)))
        if training.max_grad_norm:
            patches.append(("training.max_grad_norm", "0"))
        text = f"each weight updated in the backward pass, batches of {batch}"
        excludes = frozenset({_MICRO_BATCH, "devices"})
        yield Change(_IN_BACKWARD, level, 9 + 3 * level, text, tuple(patches), excludes)


def _precision(parsed: ParsedRequest) -> Iterator[Change]:
    spec, full = parsed.spec, parsed.run.method.trains_base
    if spec.precision == rs.PRECISION_FP32:
        yield _one("precision", '"PRECISION_BF16"', 1, 10, "16-bit weights and compute")
    elif full and spec.precision == rs.PRECISION_BF16_MIXED:
        yield _one("precision", '"PRECISION_BF16"', 1, 13, "no float32 master weights")


def _sharding(parsed: ParsedRequest) -> Iterator[Change]:
    if parsed.run.devices == 1:
        return
    kinds = (
        (rs.SHARDING_OPTIMIZER, 2, "optimizer states spread over the devices (ZeRO-1)"),
        (rs.SHARDING_GRADIENTS, 3, "gradients and optimizer states spread over the devices (ZeRO-2)"),
        (rs.SHARDING_FULL, 6, "everything spread over the devices (FSDP, ZeRO-3)"),
    )
    for kind, harm, text in kinds:
        if kind > parsed.spec.hardware.sharding:
            yield _one(_SHARDING, f'"{rs.Sharding.Name(kind)}"', kind, harm, text)


def _devices(parsed: ParsedRequest) -> Iterator[Change]:
    if _on_cpu(parsed.spec):
        return
    count, level = 2 * parsed.run.devices, 1
    while count <= MOST_DEVICES:
        patches = (("hardware.count", str(count)), (_SHARDING, '"SHARDING_FULL"'))
        text = f"{count} devices that share everything (FSDP, ZeRO-3)"
        yield Change("devices", level, 20 + 2 * level, text, patches, frozenset({_SHARDING}))
        count, level = 2 * count, level + 1


def _method(parsed: ParsedRequest) -> Iterator[Change]:
    """A smaller base first, then another method, which brings its own learning rate."""
    spec, method = parsed.spec, parsed.spec.WhichOneof("method")
    to_qlora = method in ("full", "lora", "prefix", "adapter") and not _on_cpu(spec)
    if method == "lora" and to_qlora:
        yield Change("method", 1, 10, "a 4-bit base (QLoRA)", (("qlora", json.dumps({"lora": canonical(spec.lora)})),))
        return
    reset = ((_IN_BACKWARD, "false"),) if spec.optimizer_in_backward else ()
    silent = frozenset({_IN_BACKWARD, "precision"})
    if method == "full":
        yield Change("method", 1, 30, "LoRA in place of all weights", (("lora", "{}"), *_rate("lora"), *reset), silent)
    if to_qlora:
        names = {"full": "all weights", "prefix": "prefixes", "adapter": "adapter layers"}
        text = f"QLoRA in place of {names[str(method)]}"
        # A prefix goes without checkpointing; what replaces it has the suite's default again.
        recompute = ((_CHECKPOINTING, '"GRADIENT_CHECKPOINTING_FULL"'),) if method == "prefix" else ()
        yield Change("method", 2, 34, text, (("qlora", "{}"), *_rate("qlora"), *recompute, *reset), silent)


def _rate(method: str) -> tuple[tuple[str, str], ...]:
    """The suite's learning rate of a method: that of all weights is ten times too low for adapters."""
    spec = rs.RunSpec()
    getattr(spec, method).SetInParent()
    return (("training.learning_rate", str(resolved_spec(spec).training.learning_rate)),)


def _one(path: str, json_value: str, level: int, harm: int, summary: str) -> Change:
    """A change of one field, in the group of its name."""
    return Change(path, level, harm, summary, ((path, json_value),))


def _on_cpu(spec: rs.RunSpec) -> bool:
    return spec.hardware.WhichOneof("device") == "cpu"
