# SPDX-License-Identifier: Apache-2.0
"""Options for the settings of a run and the fields that they become."""

from typing import Any

import click
import pytest
from click.testing import CliRunner
from finetree_api.types.v1 import method_pb2, run_spec_pb2, training_pb2
from finetree_cli.errors import BadInput
from finetree_cli.options import run_settings as words
from finetree_cli.options.command import take_flags
from finetree_cli.options.run_settings import RunFlags, run_options, set_run


def asked(spec: run_spec_pb2.RunSpec, *options: str) -> run_spec_pb2.RunSpec:
    @click.command()
    @run_options
    def command(**flags: Any) -> None:
        set_run(spec, take_flags(RunFlags, flags))

    result = CliRunner().invoke(command, list(options), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return spec


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (words.TARGETS, method_pb2.TargetPreset),
        (words.PLACEMENTS, method_pb2.AdapterPlacement),
        (words.QUANTIZATIONS, method_pb2.Quantization),
        (words.PACKING, training_pb2.Packing),
        (words.PRECISIONS, training_pb2.Precision),
        (words.OPTIMIZERS, training_pb2.Optimizer),
        (words.ATTENTION, training_pb2.AttentionKernel),
        (words.CHECKPOINTING, training_pb2.GradientCheckpointing),
        (words.LOSS_KERNELS, training_pb2.LossKernel),
    ],
)
def test_each_choice_of_the_contract_has_a_word(found, kind):
    prefix = kind.Name(0).removesuffix("UNSPECIFIED")
    names = {name.removeprefix(prefix).lower().replace("_", "-"): number for name, number in kind.items() if number}
    if found is words.CHECKPOINTING:
        names["on"] = names.pop("full")
    assert found == names


def test_flags_become_the_runs_settings():
    numbers = "--rank 4 --dropout 0 --steps 9 --batch 8 --micro-batch 2 --sequence-length 64"
    choices = "--targets mlp --quantization int8 --packing off --precision fp32 --optimizer sgd --attention eager"
    kernels = "--checkpointing off --loss-kernel chunked"
    options = f"{numbers} {choices} {kernels}".split()
    spec = asked(run_spec_pb2.RunSpec(qlora=method_pb2.Qlora()), *options)
    lora = method_pb2.Lora(rank=4, dropout=0, targets=method_pb2.TARGET_PRESET_MLP)
    assert spec == run_spec_pb2.RunSpec(
        qlora=method_pb2.Qlora(lora=lora, quantization=method_pb2.QUANTIZATION_INT8),
        training=training_pb2.Training(
            max_steps=9,
            effective_batch_size=8,
            micro_batch_size=2,
            sequence_length=64,
            packing=training_pb2.PACKING_OFF,
        ),
        precision=training_pb2.PRECISION_FP32,
        optimizer=training_pb2.OPTIMIZER_SGD,
        attention=training_pb2.ATTENTION_KERNEL_EAGER,
        gradient_checkpointing=training_pb2.GRADIENT_CHECKPOINTING_OFF,
        loss_kernel=training_pb2.LOSS_KERNEL_CHUNKED,
    )


def test_adapter_layers_have_a_width_and_a_place():
    spec = asked(run_spec_pb2.RunSpec(adapter={}), *["--bottleneck", "8", "--placement", "houlsby"])
    placement = method_pb2.ADAPTER_PLACEMENT_HOULSBY
    assert spec.adapter == method_pb2.AdapterLayers(bottleneck_size=8, placement=placement)


def test_without_flags_the_spec_is_unchanged():
    spec = run_spec_pb2.RunSpec(lora=method_pb2.Lora(target_modules=["q_proj"]))
    assert asked(spec) == run_spec_pb2.RunSpec(lora=method_pb2.Lora(target_modules=["q_proj"]))


def test_a_preset_replaces_the_files_module_names():
    spec = asked(run_spec_pb2.RunSpec(lora=method_pb2.Lora(target_modules=["q_proj"])), "--targets", "attention")
    assert spec.lora == method_pb2.Lora(targets=method_pb2.TARGET_PRESET_ATTENTION)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--rank", "4"), "--rank needs --method lora or qlora"),
        (("--dropout", "0"), "--dropout needs --method lora or qlora"),
        (("--placement", "parallel"), "--placement needs --method adapter"),
        (("--quantization", "nf4"), "--quantization needs --method qlora"),
        (("--bottleneck", "8"), "--bottleneck needs --method adapter"),
        (("--epochs", "1", "--steps", "5"), "exclude each other"),
    ],
)
def test_an_option_without_effect_is_refused(option, message):
    with pytest.raises(BadInput, match=message):
        asked(run_spec_pb2.RunSpec(full=method_pb2.FullFineTuning()), *option)
