# SPDX-License-Identifier: Apache-2.0
"""What is written as a job file reads back as the same spec, whatever is in it."""

from finetree_api.types.v1 import check_pb2, hardware_pb2, method_pb2, model_pb2, run_spec_pb2
from finetree_cli.jobfile import yaml_writer
from finetree_cli.jobfile.job import parse_job
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.type import money_pb2
from hypothesis import given
from hypothesis import strategies as st

VALUES = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(allow_nan=False, allow_infinity=False),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_STRING: st.text(st.characters(exclude_categories=["Cs", "Cc"])) | st.sampled_from("yn~"),
}


@st.composite
def filled(draw, kind: type[Message]) -> Message:
    """A message with any of its fields set to any value, one member of each oneof."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        if draw(st.booleans()):
            fill(draw, message, field)
    return message


def fill(draw, message, field):
    count = draw(st.integers(1, 3)) if field.is_repeated else 1
    for _ in range(count):
        if field.message_type is not None:
            target = getattr(message, field.name)
            target = target.add() if field.is_repeated else target
            target.SetInParent()
            target.CopyFrom(draw(filled(type(target))))
            continue
        enum = field.enum_type
        value = draw(st.sampled_from([v.number for v in enum.values]) if enum is not None else VALUES[field.cpp_type])
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)


@given(spec=filled(run_spec_pb2.RunSpec))
def test_any_spec_reads_back(spec):
    text = yaml_writer.to_yaml(spec)
    if spec.ListFields():
        assert parse_job(text, "job.yaml").spec == spec


def test_every_value_carries_its_reason():
    spec = run_spec_pb2.RunSpec(model=model_pb2.ModelSource(name="m"), lora=method_pb2.Lora(rank=8))
    source = check_pb2.SettingSource(field_path="lora.rank", reason="small\nmodel: {", rule_id="recipe.rank")
    text = yaml_writer.to_yaml(spec, [source], ["Plan\nname: evil"])
    assert text.splitlines()[0] == "# Plan name: evil"
    line = next(line for line in text.splitlines() if "rank" in line)
    assert line.split() == ["rank:", "8", "#", "small", "model:", "{", "[recipe.rank]"]
    assert parse_job(text, "job.yaml").spec == spec


def test_money_is_written_as_text():
    owned = hardware_pb2.OwnedHardware(price_per_kwh=money_pb2.Money(currency_code="EUR", nanos=300_000_000))
    spec = run_spec_pb2.RunSpec(ownership=hardware_pb2.Ownership(owned=owned))
    text = yaml_writer.to_yaml(spec)
    assert "price_per_kwh: 0.30 EUR" in text
    assert parse_job(text, "job.yaml").spec == spec
