# SPDX-License-Identifier: Apache-2.0
"""Which option of a command sets a field of the contract: texts name it in place of the field's path."""

import re

import click

ASSUMED = "SETTING_ASSUMED"
"""Code of an estimate's remark on a setting that the request left open; its path is the setting's."""

FLAGS: dict[str, tuple[str, ...]] = {
    "model": ("--model",),
    "model.name": ("--model",),
    "method": ("--method",),
    "lora.rank": ("--rank",),
    "lora.dropout": ("--dropout",),
    "lora.targets": ("--targets",),
    "qlora.quantization": ("--quantization",),
    "qlora.lora.rank": ("--rank",),
    "qlora.lora.dropout": ("--dropout",),
    "qlora.lora.targets": ("--targets",),
    "prefix.virtual_tokens": ("--virtual-tokens",),
    "adapter.bottleneck_size": ("--bottleneck",),
    "adapter.placement": ("--placement",),
    "training.epochs": ("--epochs",),
    "training.max_steps": ("--steps",),
    "training.effective_batch_size": ("--batch",),
    "training.micro_batch_size": ("--micro-batch",),
    "training.sequence_length": ("--sequence-length",),
    "training.packing": ("--packing",),
    "precision": ("--precision",),
    "optimizer": ("--optimizer",),
    "attention": ("--attention",),
    "loss_kernel": ("--loss-kernel",),
    "gradient_checkpointing": ("--checkpointing",),
    "hardware": ("--gpu",),
    "hardware.accelerator": ("--gpu",),
    "hardware.unknown_accelerator": ("--gpu-memory",),
    "hardware.unknown_accelerator.marketed_memory_gb": ("--gpu-memory",),
    "hardware.count": ("--devices",),
    "hardware.sharding": ("--sharding",),
    "hardware.nodes": ("--nodes",),
    "hardware.network_gbits_per_second": ("--network",),
    "hardware.cpu": ("--cpu",),
    "hardware.cpu.cores": ("--cores",),
    "hardware.cpu.memory_bytes": ("--memory-gb",),
    "ownership.rented.price_id": ("--price",),
    "ownership.owned.price_per_kwh": ("--price-per-kwh",),
    "ownership.owned.watts": ("--watts",),
    "dataset": ("--dataset", "--examples"),
    "dataset_profile": ("--examples",),
    "dataset_profile.examples": ("--examples",),
    "dataset_profile.total_tokens": ("--tokens-per-example", "--tokens"),
    "dataset_profile.token_lengths": ("--data", "--dataset"),
    "dataset_profile.target_fraction": ("--target-fraction",),
    "dataset.profile.examples": ("--examples",),
    "dataset.profile.total_tokens": ("--tokens-per-example", "--tokens"),
    "dataset.profile.token_lengths": ("--data", "--dataset"),
    "dataset.profile.target_fraction": ("--target-fraction",),
    "evaluation.dataset": ("--eval-dataset",),
    "program": ("--program",),
    "program.program": ("--program",),
    "program.compile": ("--compile",),
    "program.sharding_library": ("--sharding-library",),
    "program.allocator_cache": ("--allocator-cache",),
    "program.experts": ("--experts",),
    "program.layer_kernels": ("--layer-kernels",),
    "runs_per_month": ("--runs-per-month",),
    "max_duration": ("--max-duration",),
    "budget_per_run": ("--budget-per-run",),
    "budget_per_month": ("--budget-per-month",),
    "quality": ("--quality",),
    "time": ("--time",),
    "tasks": ("--tasks",),
    "use_case": ("--use-case",),
    "task_domain": ("--task-domain",),
    "behavior_change": ("--behavior",),
    "experience": ("--experience",),
    "task_count": ("--task-count",),
    "serving": ("--serve",),
    "priorities": ("--priority",),
    "can_rent": ("--can-rent",),
    "profile": ("--recipe",),
    "rule_pack": ("--rule-pack",),
    "matrix_rates": ("--this-machine",),
    "ownership": ("--price",),
}
"""Options by the path of the field, of a RunSpec or of a request beside it; the first that a command has is its own."""
MEANT: dict[str, tuple[str, ...]] = {
    "--deadline": ("--max-duration", "--max-hours"),
    "--timeout": ("--max-duration",),
    "--max-hours": ("--max-duration",),
    "--max-cost": ("--budget-per-run",),
    "--accelerator": ("--gpu",),
    "--accelerators": ("--gpus",),
    "--gpus": ("--devices",),
    "--count": ("--devices",),
    "--rows": ("--examples",),
}
"""Options that other commands and programs have, and those that a command may have in their place."""
_AROUND = ("run.", "request.", "train.", "spec.")
"""Messages around a RunSpec, in the order in which a path may name them."""


def flag_of(field_path: str, command: click.Command) -> str:
    """Return the option of a command that sets a field; "" where none does."""
    path = field_path
    for name in _AROUND:
        path = path.removeprefix(name)
    known = {word for parameter in command.params for word in parameter.opts}
    return next((flag for flag in FLAGS.get(path, ()) if flag in known), "")


def in_flags(text: str, command: click.Command) -> str:
    """Replace the paths of nested fields, and fields in backticks, in a text by the options that a command has.

    The rpcs that list what there is become the commands that do.
    """
    named = _RPC.sub(lambda found: LISTS[found[0]], text)
    if flag_of("model", command):
        named = named.replace("model.shape accepts any", "--model ./FOLDER takes any that has a config.json")
    return _PATHS.sub(lambda found: flag_of(found[0].strip("`"), command) or found[0], named)


LISTS = {
    "ListModels": "`finetree models list --catalog`",
    "ListAccelerators": "`finetree gpus`",
    "ListPrices": "`finetree prices list`",
    "ListRulePacks": "`finetree packs list`",
    "ListDatasets": "`finetree datasets list`",
    "ListJobs": "`finetree jobs list`",
    "ListJobLogs": "`finetree jobs logs JOB --list`",
    "ListBaseModels": "`finetree models list`",
    "ListSweeps": "`finetree sweeps list`",
}
"""Commands by the rpc that they call."""
_RPC = re.compile(rf"\b({'|'.join(LISTS)})\b")
_PATHS = re.compile(r"(?<![\w.`])[a-z_]+(?:\.[a-z_]+)+(?!\w)|`[a-z_]+(?:\.[a-z_]+)*`")
"""Words with a dot between them, or in backticks: one word may be a word of the text as well."""
