# SPDX-License-Identifier: Apache-2.0
"""The SDK beside a service of the next version and of the released one, and beside one that lacks a call.

A relay in front of the fake suite rewrites every answer with descriptors of another version: the next one adds a field
to each message, gives each enum field a value that this client does not know, and each event a payload that it does
not know. The released one is protos/released.binpb, and drops what it does not know.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import finetree
import grpc
import pytest
from finetree._shared import rpcs
from finetree._shared.requests import enum_word
from finetree.testing import Suite
from finetree_api.trainer.v1 import event_pb2, job_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

RELEASED = Path(__file__).parents[3] / "protos/released.binpb"
NEW_VALUE = 9999
NEW_FIELD, NEW_PAYLOAD = 15_000, 15_001
PACKAGE = "finetree_api."
CONTRACT = {rpc.path: rpc for rpc in vars(rpcs).values() if isinstance(rpc, rpcs.Rpc)}


def current() -> descriptor_pb2.FileDescriptorSet:
    """The contract as this client knows it, each file after those that it imports."""
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(file) -> None:
        if file.name not in files:
            for dependency in file.dependencies:
                add(dependency)
            files[file.name] = descriptor_pb2.FileDescriptorProto.FromString(file.serialized_pb)

    for rpc in CONTRACT.values():
        add(rpc.request.DESCRIPTOR.file)
        add(rpc.response.DESCRIPTOR.file)
    return descriptor_pb2.FileDescriptorSet(file=files.values())


def grown(files: descriptor_pb2.FileDescriptorSet) -> descriptor_pb2.FileDescriptorSet:
    """A contract of the next version."""
    for file in files.file:
        if file.package.startswith(PACKAGE):
            for message in file.message_type:
                _grow(message)
            for enum in file.enum_type:
                enum.value.add(name=f"{enum.value[0].name}_NEXT", number=NEW_VALUE)
    return files


def _grow(message: descriptor_pb2.DescriptorProto) -> None:
    if message.options.map_entry:
        return
    kinds = descriptor_pb2.FieldDescriptorProto
    message.field.add(name="of_the_next", number=NEW_FIELD, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    if message.name == "JobEvent":
        payload = next(index for index, oneof in enumerate(message.oneof_decl) if oneof.name == "payload")
        message.field.add(
            name="payload_of_the_next",
            number=NEW_PAYLOAD,
            type=kinds.TYPE_STRING,
            label=kinds.LABEL_OPTIONAL,
            oneof_index=payload,
        )
    for nested in message.nested_type:
        _grow(nested)
    for enum in message.enum_type:
        enum.value.add(name=f"{enum.value[0].name}_NEXT", number=NEW_VALUE)


def renew(message) -> None:
    """Fill in what only the next version has, at every depth."""
    for field, value in message.ListFields():
        if field.enum_type is not None and field.enum_type.full_name.startswith(PACKAGE):
            _renew_enum(message, field, value)
        for each in _messages(field, value):
            renew(each)
    if message.DESCRIPTOR.full_name.startswith(PACKAGE):
        message.of_the_next = "more"
    if message.DESCRIPTOR.name == "JobEvent" and message.WhichOneof("payload") != "terminal":
        message.payload_of_the_next = "a new kind of news"


def _renew_enum(message, field, value) -> None:
    if field.is_repeated:
        value.append(NEW_VALUE)
    else:
        setattr(message, field.name, NEW_VALUE)


def _messages(field, value) -> Iterable[Any]:
    """Messages in a field."""
    if field.message_type is None:
        return []
    if field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"].message_type
        return value.values() if inner is not None else []
    return value if field.is_repeated else [value]


class Relay(grpc.GenericRpcHandler):
    """Passes calls on to a suite, and its answers back in the words of another version."""

    def __init__(self, suite: Suite, files: descriptor_pb2.FileDescriptorSet, change) -> None:
        self._channel = grpc.insecure_channel(suite.address)
        self._pool = descriptor_pool.DescriptorPool()
        for file in files.file:
            self._pool.Add(file) if hasattr(self._pool, "Add") else self._pool.AddSerializedFile(
                file.SerializeToString()
            )
        self._change = change

    def service(self, handler_call_details):
        rpc = CONTRACT.get(handler_call_details.method)
        if rpc is None:
            return None
        answer_class = message_factory.GetMessageClass(
            self._pool.FindMessageTypeByName(rpc.response.DESCRIPTOR.full_name)
        )

        def changed(answer: bytes) -> bytes:
            message = answer_class.FromString(answer)
            self._change(message)
            return message.SerializeToString()

        if rpc in (rpcs.WATCH_JOB, rpcs.DOWNLOAD_ARTIFACT):
            return grpc.unary_stream_rpc_method_handler(
                lambda request, context: map(changed, self._passed("unary_stream", rpc, request, context))
            )
        kind = "stream_unary" if rpc is rpcs.WRITE_DATASET else "unary_unary"
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(lambda request, context: changed(self._passed(kind, rpc, request, context)))

    def _passed(self, kind: str, rpc, request, context) -> Any:
        try:
            return getattr(self._channel, kind)(rpc.path)(request, timeout=60)
        except grpc.RpcError as error:
            context.set_trailing_metadata(error.trailing_metadata())
            context.abort(error.code(), error.details())
            raise

    def close(self) -> None:
        self._channel.close()


def relayed(suite, files, change):
    """A server with a relay, and its address."""
    relay = Relay(suite, files, change)
    server = grpc.server(ThreadPoolExecutor(16), [relay])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, relay, f"127.0.0.1:{port}"


def released() -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString(RELEASED.read_bytes())


VERSIONS = {
    "next": (lambda: grown(current()), renew),
    "released": (released, lambda message: message.DiscardUnknownFields()),
}


@pytest.fixture(params=VERSIONS)
def version(request, suite):
    make, change = VERSIONS[request.param]
    server, relay, address = relayed(suite, make(), change)
    yield request.param, address
    server.stop(None).wait()
    relay.close()


def test_a_whole_job_with_a_service_of_another_version(do, version, spec, tmp_path):
    name, address = version
    client = finetree.AsyncClient(address) if do.aio else finetree.Client(address)
    do.opened.append(client)
    dataset = do(client.upload_dataset([{"text": "a"}]))
    job = do(client.create_job(spec | {"dataset": {"name": dataset.name}}))
    stream = job.events()
    events = do.all(stream)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert len(events) == 19
    ended = do(job.wait())
    do(job.download(tmp_path))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert "of_the_next" not in str(finetree.to_json(ended))
    again = client.job(job.name).events(cursor=stream.cursor)
    assert do.all(again) == []
    if name == "next":
        assert {event.kind for event in events} == {NEW_VALUE}
        assert [event.WhichOneof("payload") for event in events if event.HasField("terminal")] == ["terminal"]
        assert ended.state == NEW_VALUE
        assert finetree.to_json(ended)["state"] == NEW_VALUE
        with pytest.raises(finetree.JobFailed, match=r"unknown\(9999\)"):
            do(job.wait(check=True))


def test_every_question_is_answered_by_a_service_of_another_version(do, version, spec):
    _, address = version
    client = finetree.AsyncClient(address) if do.aio else finetree.Client(address)
    do.opened.append(client)
    answers = [
        do(client.recommend({"model": {"name": "tiny"}})),
        do(client.estimate(spec)),
        do(client.estimate_batch({"a": spec})),
        do(client.check_plan(spec, {"fit": True})),
        do(client.validate_job(spec)),
        do(client.capacity()),
        do(client.list_methods()),
        do(client.get_method("lora")),
        do(client.server_info("trainer")),
        do.all(client.list_models()),
        do.all(client.list_accelerators()),
        do.all(client.list_prices()),
        do.all(client.list_rule_packs()),
    ]
    assert all(answers)
    assert all(repr(answer) for answer in answers)


@pytest.mark.parametrize("call", ["capacity", "list_methods"])
def test_a_call_that_the_service_does_not_have_is_said_so(do, suite, call):
    rpc = {"capacity": rpcs.GET_CAPACITY, "list_methods": rpcs.LIST_METHODS}[call]
    suite._handlers._handlers.pop(rpc.path)
    with pytest.raises(
        finetree.Unimplemented, match="does not know this call; check that it is the right service, and"
    ):
        do(getattr(do.client(), call)())


def test_an_unknown_value_says_its_number():
    assert enum_word(job_pb2.JobState, NEW_VALUE) == "unknown(9999)"
    assert enum_word(event_pb2.EventKind, event_pb2.EVENT_KIND_TERMINAL) == "terminal"
