# SPDX-License-Identifier: Apache-2.0
"""What an estimate assumed: settings that the request left open and that change what the run takes, in words."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from finetree_api.types.v1 import run_spec_pb2
from finetree_runtime.runspec.defaults import Default

from finetree_estimator.remarks import Remark
from finetree_estimator.run import Run

ASSUMED = "SETTING_ASSUMED"
"""Code of a remark on a setting that was left open."""

_SHARDINGS = {
    "replicated": "a full copy on each device",
    "optimizer": "optimizer states in shards",
    "gradients": "gradients in shards",
    "full": "weights in shards",
}
_LOSSES = {
    "full-logits": "logits of all tokens at once",
    "chunked": "logits in chunks",
    "fused": "a fused loss",
    "completion-only": "logits of targets alone",
}
_CHECKPOINTING = {"off": "checkpointing off", "full": "checkpointing on", "offloaded": "checkpointing offloaded"}

_PHRASES: Mapping[str, Callable[[Any], str]] = {
    "lora.rank": lambda rank: f"rank {rank}",
    "lora.dropout": lambda share: f"dropout {share:g}",
    "lora.targets": lambda preset: f"{preset} targets",
    "qlora.lora.rank": lambda rank: f"rank {rank}",
    "qlora.lora.dropout": lambda share: f"dropout {share:g}",
    "qlora.lora.targets": lambda preset: f"{preset} targets",
    "qlora.quantization": lambda kind: f"a base in {kind}",
    "prefix.virtual_tokens": lambda tokens: f"{tokens} virtual tokens",
    "adapter.bottleneck_size": lambda width: f"bottleneck {width}",
    "adapter.placement": lambda place: f"{place} adapters",
    "training.epochs": lambda epochs: f"{epochs:g} {'epoch' if epochs == 1 else 'epochs'}",
    "training.effective_batch_size": lambda rows: f"batch {rows}",
    "training.micro_batch_size": lambda rows: f"micro-batch {rows}",
    "training.sequence_length": lambda tokens: f"rows of up to {tokens} tokens",
    "training.packing": lambda packing: "packed rows" if packing == "on" else "padded rows",
    "precision": str,
    "optimizer": str,
    "attention": lambda kernel: f"{kernel} attention",
    "gradient_checkpointing": _CHECKPOINTING.__getitem__,
    "loss_kernel": _LOSSES.__getitem__,
    "hardware.count": lambda count: f"{count} device",
    "hardware.sharding": _SHARDINGS.__getitem__,
    "hardware.nodes": lambda nodes: f"{nodes} machine",
    "program.program": lambda name: f"trained by {name}",
}
"""Words for each setting that changes memory, time or cost, by its path; of an enum they get the value's name."""


def assumptions(spec: run_spec_pb2.RunSpec, defaults: Iterable[Default], run: Run) -> Iterator[Remark]:
    """One remark for each setting that took one of `defaults`, and for unknown lengths of the rows.

    `spec` is resolved: it has their values.
    """
    for default in defaults:
        if (phrase := _PHRASES.get(default.field_path)) is not None:
            yield Remark(ASSUMED, phrase(_value(spec, default.field_path)), f"spec.{default.field_path}")
    if run.rows is not None and not run.rows.mean_known:
        text = f"every row as long as {run.sequence_length} tokens"
        yield Remark(ASSUMED, text, "spec.dataset.profile.total_tokens")


def _value(spec: run_spec_pb2.RunSpec, path: str) -> Any:
    """Value of a field; of an enum its name in small letters: OPTIMIZER_ADAMW_8BIT is "adamw-8bit"."""
    *parents, name = path.split(".")
    message: Any = spec
    for parent in parents:
        message = getattr(message, parent)
    value, kind = getattr(message, name), message.DESCRIPTOR.fields_by_name[name].enum_type
    if kind is None:
        return value
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return kind.values_by_number[value].name.removeprefix(prefix).lower().replace("_", "-")
