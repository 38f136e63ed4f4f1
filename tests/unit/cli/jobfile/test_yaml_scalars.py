# SPDX-License-Identifier: Apache-2.0
"""Words for the values of enums: the options', written and read; the contract's names are read as well."""

import pytest
import yaml
from finetree_api.trainer.v1 import job_pb2
from finetree_api.types.v1 import run_spec_pb2
from finetree_cli.jobfile.schema import job_schema
from finetree_cli.jobfile.yaml_scalars import convert, enum_word
from finetree_cli.options import program, run_settings, spec
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor


def enum_fields(message: Descriptor, seen: set[str]) -> dict[str, FieldDescriptor]:
    """One field of each enum in a message and in those inside it, by the enum's name."""
    found: dict[str, FieldDescriptor] = {}
    if message.full_name not in seen:
        seen.add(message.full_name)
        for field in message.fields:
            if field.enum_type is not None:
                found[field.enum_type.full_name] = field
            if field.message_type is not None:
                found |= enum_fields(field.message_type, seen)
    return found


FIELDS = enum_fields(job_pb2.JobTemplate.DESCRIPTOR, set())
SCHEMA = job_schema()


def enum_of(name: str) -> EnumDescriptor:
    return FIELDS[f"finetree_api.types.v1.{name}"].enum_type


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("TargetPreset", run_settings.TARGETS),
        ("Quantization", run_settings.QUANTIZATIONS),
        ("Packing", run_settings.PACKING),
        ("Precision", run_settings.PRECISIONS),
        ("Optimizer", run_settings.OPTIMIZERS),
        ("AttentionKernel", run_settings.ATTENTION),
        ("GradientCheckpointing", run_settings.CHECKPOINTING),
        ("LossKernel", run_settings.LOSS_KERNELS),
        ("Sharding", {word: number for word, number in spec.SHARDING.items() if word != "zero-3"}),
    ],
)
def test_a_value_has_the_word_that_its_option_takes(name, flags):
    assert {enum_word(enum_of(name), number): number for number in flags.values()} == flags


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("TrainingProgram", program.PROGRAMS),
        ("ShardingLibrary", program.LIBRARIES),
        ("AllocatorCache", program.CACHES),
        ("ExpertProducts", program.EXPERTS),
        ("LayerKernels", program.LAYER_KERNELS),
    ],
)
def test_a_setting_of_a_program_has_the_words_of_its_option(name, words):
    kind = enum_of(name)
    assert {enum_word(kind, value.number) for value in kind.values if value.number} == set(words)


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_every_value_is_read_by_its_word_and_by_the_contracts_name(field):
    """Also in small letters with underscores, as files were written before."""
    for value in field.enum_type.values:
        word = enum_word(field.enum_type, value.number)
        for text in (word, value.name, word.replace("-", "_"), value.name.lower() if value.number else value.name):
            assert convert(field, yaml.ScalarNode("tag:yaml.org,2002:str", text)) == (value.number, ""), text


def test_the_schema_offers_the_words_and_takes_the_names():
    targets = SCHEMA["$defs"]["Lora"]["properties"]["targets"]
    first, others = targets["anyOf"]
    assert first["enum"] == ["all-linear", "attention", "query-value", "mlp"]
    assert {"TARGET_PRESET_ALL_LINEAR", "all_linear"} <= set(others["enum"])
    assert set(run_spec_pb2.RunSpec.DESCRIPTOR.fields_by_name) == set(SCHEMA["$defs"]["RunSpec"]["properties"])
