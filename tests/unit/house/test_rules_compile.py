# SPDX-License-Identifier: Apache-2.0
"""Every rule of the contract compiles: a rule that does not refuses every request, and only at run time."""

from contextlib import suppress
from importlib.resources import files

import protovalidate
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

IMAGE = descriptor_pb2.FileDescriptorSet.FromString(files("finetree_api").joinpath("rules.binpb").read_bytes())
OURS = [file for file in IMAGE.file if file.package.startswith("finetree_api.")]
POOL = descriptor_pool.DescriptorPool()
for described in IMAGE.file:
    POOL.AddSerializedFile(described.SerializeToString())


def filled(descriptor, depth=4):
    """A message with every message field set, so that the rules of nested messages and of elements are compiled too."""
    message = message_factory.GetMessageClass(descriptor)()
    for field in descriptor.fields:
        nested = field.message_type
        if not depth or nested is None or nested.GetOptions().map_entry:
            continue
        here = getattr(message, field.name)
        target = here.add() if field.is_repeated else here
        target.SetInParent()
        target.MergeFrom(filled(nested, depth - 1))
    return message


@pytest.mark.parametrize("name", [f"{file.package}.{message.name}" for file in OURS for message in file.message_type])
def test_every_rule_of_a_message_compiles(name):
    descriptor = POOL.FindMessageTypeByName(name)
    for message in (message_factory.GetMessageClass(descriptor)(), filled(descriptor)):
        with suppress(protovalidate.ValidationError):  # anything else is a rule that does not compile
            protovalidate.validate(message)


def test_there_are_messages_of_all_five_packages():
    assert {file.package for file in OURS} == {
        f"finetree_api.{room}.v1" for room in ("types", "recommender", "estimator", "trainer", "worker")
    }
