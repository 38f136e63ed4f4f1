# SPDX-License-Identifier: Apache-2.0
"""No rpc of a public service is open by accident.

Each one is refused without a token, with too small a role, and with a token of another project, and is let in with the
role that the contract states. There is nothing behind the rpcs here: whoever is let in gets another error.
"""

import grpc
import pytest
from finetree_api.estimator.v1 import estimator_pb2, estimator_pb2_grpc
from finetree_api.recommender.v1 import recommender_pb2, recommender_pb2_grpc
from finetree_api.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from finetree_api.types.v1 import access_pb2
from finetree_runtime.server.access import changes
from finetree_runtime.server.access.requirement import requirement_of
from finetree_runtime.server.access.roles import Grants, Role
from finetree_runtime.server.access.table import Granted
from finetree_runtime.server.service import Service, serving
from google.protobuf import message_factory
from google.rpc import error_details_pb2
from grpc_status import rpc_status


class Trainer(trainer_pb2_grpc.TrainerServiceServicer):
    """Reads the stream, as whoever answers one does: its first message names the dataset."""

    async def WriteDataset(self, request_iterator, context):  # noqa: ARG002, N802  # the contract's name and arguments
        async for _ in request_iterator:
            raise NotImplementedError


SERVICES = {
    module.DESCRIPTOR.services_by_name[name]: (getattr(stubs, f"add_{name}Servicer_to_server"), servicer)
    for name, module, stubs, servicer in (
        ("EstimatorService", estimator_pb2, estimator_pb2_grpc, estimator_pb2_grpc.EstimatorServiceServicer),
        ("RecommenderService", recommender_pb2, recommender_pb2_grpc, recommender_pb2_grpc.RecommenderServiceServicer),
        ("TrainerService", trainer_pb2, trainer_pb2_grpc, Trainer),
    )
}
RPCS = [method for service in SERVICES for method in service.methods]
EXAMPLES = {
    "projects": "projects/{}",
    "jobs": "projects/{}/jobs/1",
    "datasets": "projects/{}/datasets/1",
    "sweeps": "projects/{}/sweeps/1",
    "checkpoints": "projects/{}/jobs/1/checkpoints/2",
    "artifacts": "projects/{}/jobs/1/artifacts/adapter",
}
"""A name for each collection that a field may name a resource of."""
WAIT = 60.0


def path(method):
    return f"/{method.containing_service.full_name}/{method.name}"


def requests(method, project):
    """For each field that names a resource, at the first level, a request that names one of a project."""
    message = message_factory.GetMessageClass(method.input_type)
    for field in method.input_type.fields:
        collection = field.GetOptions().Extensions[access_pb2.resource]
        if collection:
            name = EXAMPLES[collection].format(project)
            yield message(**{field.name: [name, name] if field.is_repeated else name})


async def ask(channel, method, request, token=""):
    """Code, reason and metadata of the answer to a call."""
    kind = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
    call = getattr(channel, "_".join(kind))(
        path(method), request_serializer=lambda message: message.SerializeToString()
    )
    metadata = [("authorization", f"Bearer {token}")] if token else None
    sent = call(iter([request]) if method.client_streaming else request, metadata=metadata, timeout=WAIT)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (sent.read() if method.server_streaming else sent)
    info = error_details_pb2.ErrorInfo()
    for packed in rpc_status.from_call(caught.value).details:
        packed.Unpack(info)
        break
    return caught.value.code().name, info.reason, dict(info.metadata)


@pytest.fixture
async def served(program, tmp_path):
    """A server of all three services, and what makes a token for it."""

    def token(project, role=None, *, operator=False) -> str:
        granted = Granted(project, Grants({project: role} if role else {}, operator=operator))
        return changes.create_token(tmp_path, "ci", granted, expires=None)[1]

    token("nobody")
    service = Service("bare", "1.2.3", program.Settings(access_dir=tmp_path, log_level="error"))
    for descriptor, (add, servicer) in SERVICES.items():
        service.add(add, servicer(), descriptor.full_name)
    async with serving(service) as address, grpc.aio.insecure_channel(address) as channel:
        yield channel, token


def empty(method):
    return message_factory.GetMessageClass(method.input_type)()


def let_in(answer):
    """Whether a call reached its method, or the rules for requests before it."""
    return answer[0] not in {"UNAUTHENTICATED", "PERMISSION_DENIED"}


def test_every_rpc_states_what_it_needs():
    assert len(RPCS) > 60
    unstated = [path(method) for method in RPCS if not method.GetOptions().Extensions[access_pb2.access]]
    assert unstated == []
    assert all(requirement_of(path(method)) is not None for method in RPCS)
    open_to_all = [method.name for method in RPCS if requirement_of(path(method)).role is None]
    assert open_to_all == ["GetServerInfo"] * 3


async def test_every_rpc_is_refused_without_a_token(served):
    channel, _ = served
    answers = {path(method): (await ask(channel, method, empty(method)))[:2] for method in RPCS}
    assert answers == {path(method): ("UNAUTHENTICATED", "TOKEN_MISSING") for method in RPCS}


async def test_every_rpc_is_refused_with_too_small_a_role_and_let_in_with_the_stated_one(served):
    channel, token = served
    of_role = {role: token("mine", role) for role in Role if role is not Role.OPERATOR}
    operator, nothing = token("mine", operator=True), token("mine")
    for method in RPCS:
        role = requirement_of(path(method)).role
        if role is None:
            assert let_in(await ask(channel, method, empty(method), nothing)), method.name
            continue
        below = nothing if role is Role.ESTIMATE else of_role[Role(min(role, 5) - 1)]
        code, reason, metadata = await ask(channel, method, empty(method), below)
        assert (code, reason, metadata["role"]) == ("PERMISSION_DENIED", "ROLE_MISSING", role.word), method.name
        enough = operator if role is Role.OPERATOR else of_role[role]
        assert let_in(await ask(channel, method, empty(method), enough)), method.name


async def test_every_rpc_that_names_a_resource_is_refused_to_a_token_of_another_project(served):
    channel, token = served
    theirs = token("theirs", Role.ADMIN)
    looked_at = set()
    for method in RPCS:
        role = requirement_of(path(method)).role
        for request in requests(method, "mine"):
            looked_at.add(method.name)
            answer = await ask(channel, method, request, theirs)
            assert answer == ("PERMISSION_DENIED", "ROLE_MISSING", {"role": role.word, "project": "mine"}), method.name
        for request in requests(method, "theirs"):
            assert let_in(await ask(channel, method, request, theirs)), method.name
    of_no_project = {method.name for method in RPCS if method.containing_service.name == "TrainerService"} - looked_at
    assert of_no_project == {
        *("GetServerInfo", "GetCapacity", "ListBaseModels", "GetBaseModel", "DeleteBaseModel"),
    }
