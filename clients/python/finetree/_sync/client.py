# SPDX-License-Identifier: Apache-2.0
"""The synchronous client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from finetree_api.estimator.v1 import estimator_pb2, estimator_pb2_grpc
from finetree_api.recommender.v1 import recommender_pb2, recommender_pb2_grpc
from finetree_api.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from finetree_api.types.v1 import server_pb2
from google.protobuf.message import Message

from finetree._shared import rpcs
from finetree._shared.requests import unknown_service
from finetree._sync.base_models import BaseModelCalls
from finetree._sync.datasets import DatasetCalls
from finetree._sync.estimator import EstimatorCalls
from finetree._sync.jobs import JobCalls
from finetree._sync.recommender import RecommenderCalls
from finetree._sync.trainer.evaluations import EvaluationCalls
from finetree._sync.trainer.storage import StorageCalls
from finetree._sync.trainer.sweeps import SweepCalls
from finetree._sync.trainer.verify_serving import VerifyServingCalls
from finetree._sync.trainer.waiting import WaitingCalls
from finetree._sync.transport import Transport
from finetree.config.options import RECONNECT_TIMEOUT, TLS, Options, make_options
from finetree.config.settings import Service


class Raw:
    """Typed gRPC stubs over the client's channels, with its token, trace and a request id of their own.

    They raise gRPC's errors, and nothing is sent again. Metadata of an answer, such as `finetree-server-version`:

        response, call = client.raw.trainer.GetJob.with_call(request)
        print(call.trailing_metadata())
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def recommender(self) -> recommender_pb2_grpc.RecommenderServiceStub:
        """Stub of the recommender."""
        return recommender_pb2_grpc.RecommenderServiceStub(self._transport.raw_channel("recommender"))

    @property
    def estimator(self) -> estimator_pb2_grpc.EstimatorServiceStub:
        """Stub of the estimator."""
        return estimator_pb2_grpc.EstimatorServiceStub(self._transport.raw_channel("estimator"))

    @property
    def trainer(self) -> trainer_pb2_grpc.TrainerServiceStub:
        """Stub of the trainer."""
        return trainer_pb2_grpc.TrainerServiceStub(self._transport.raw_channel("trainer"))


class Client(
    RecommenderCalls,
    EstimatorCalls,
    DatasetCalls,
    BaseModelCalls,
    JobCalls,
    EvaluationCalls,
    SweepCalls,
    StorageCalls,
    WaitingCalls,
    VerifyServingCalls,
):
    """A client of the three services. Nothing connects before the first call; threads may share it.

    Args:
        address: "host:port" (or http://, https://, unix:) where all three services are.
        recommender_address: the recommender's own address; default 127.0.0.1:50051.
        estimator_address: the estimator's own address; default 127.0.0.1:50052.
        trainer_address: the trainer's own address; default 127.0.0.1:50053.
        profile: profile of the configuration file; None means FINETREE_PROFILE, else the one that the file chooses, ""
            means none.
        project: project of datasets and jobs; default: that of the token, "default" where no token is asked for.
        token: bearer token, or a function that returns it: it is called on the first call, when a JSON Web Token
            expires, and when a service refuses the token. A token switches TLS on, unless the address says http://
            or is loopback.
        tls: True, False or a TLS; None means: when the address says https://, or there is a token or certificate.
        timeout: seconds for every unary call; None means the default of each.
        retries: further attempts of a unary call while its service is unavailable or too full to begin it; True
            means 3, False none. All attempts have one deadline and one request_id; what the service asks to wait is
            waited for, and a little more at random. All calls of a client share a budget of 20 retries per
            service, of which every answer gives a tenth back.
        reconnect_timeout: seconds of continuous failure after which streams, uploads and downloads give up.
        interceptors: gRPC's client interceptors, of `grpc` or of `grpc.aio` as the client is; they see every attempt
            of every call, the raw ones too. They do not pickle.

    What is not given comes from the environment (FINETREE_ADDRESS, FINETREE_TRAINER_ADDRESS, FINETREE_TOKEN_FILE, …),
    else from the profile in ~/.config/finetree/config.toml; `finetree config show --origin` says from where. A
    profile's token is sent to the profile's servers alone.

    Raises:
        InvalidArgument: INVALID_OPTION; INVALID_CONFIG: a mistake in the configuration file, with its line.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        recommender_address: str | None = None,
        estimator_address: str | None = None,
        trainer_address: str | None = None,
        profile: str | None = None,
        project: str | None = None,
        token: str | Callable[[], str] | None = None,
        tls: bool | TLS | None = None,
        timeout: float | None = None,
        retries: bool | int = True,
        reconnect_timeout: float = RECONNECT_TIMEOUT,
        interceptors: Sequence[Any] = (),
    ) -> None:
        own: dict[Service, str | None] = {
            "recommender": recommender_address,
            "estimator": estimator_address,
            "trainer": trainer_address,
        }
        self._transport = Transport(
            make_options(
                address,
                own,
                profile=profile,
                project=project,
                token=token,
                tls=tls,
                timeout=timeout,
                retries=retries,
                reconnect_timeout=reconnect_timeout,
                interceptors=interceptors,
            )
        )

    @property
    def options(self) -> Options:
        """Options that the client was made with."""
        return self._transport.options

    def with_options(
        self, *, timeout: float | None = None, retries: bool | int | None = None, reconnect_timeout: float | None = None
    ) -> Self:
        """Make a client with other limits that shares this one's channels; closing either closes both.

        Args:
            timeout: seconds for every unary call; None means this client's.
            retries: further attempts of a unary call, as for the client; None means this client's.
            reconnect_timeout: as for the client; None means this client's.

        Raises:
            InvalidArgument: INVALID_OPTION.
        """
        options = self.options.changed(timeout=timeout, retries=retries, reconnect_timeout=reconnect_timeout)
        derived = type(self).__new__(type(self))
        derived.__dict__.update(self.__dict__, _transport=self._transport.with_options(options))
        return derived

    @property
    def raw(self) -> Raw:
        """Typed gRPC stubs, for what this client does not offer."""
        return Raw(self._transport)

    def server_info(self, service: Service, *, timeout: float | None = None) -> server_pb2.ServerInfo:
        """Get what a server is: version, API revisions, features, limits.

        Args:
            service: "recommender", "estimator" or "trainer".
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            Unavailable: SERVICE_UNREACHABLE.
        """
        call = self._transport.unary
        if service == "recommender":
            info = recommender_pb2.GetServerInfoRequest()
            return call(rpcs.RECOMMENDER_INFO, info, timeout=timeout).server
        if service == "estimator":
            return call(rpcs.ESTIMATOR_INFO, estimator_pb2.GetServerInfoRequest(), timeout=timeout).server
        if service == "trainer":
            return call(rpcs.TRAINER_INFO, trainer_pb2.GetServerInfoRequest(), timeout=timeout).server
        raise unknown_service(service)

    def call(self, method: str, request: Message | Iterator[Message], *, timeout: float | None = None) -> Message:
        """Make any rpc of the contract that answers once, with the deadline and the errors of the other methods.

        Args:
            method: path of the rpc, such as "/finetree_api.trainer.v1.TrainerService/GetJob".
            request: its request message, or the messages of its stream; only the first is retried.
            timeout: seconds; None means the client's timeout, else the default of the rpc.

        Raises:
            FinetreeError: what the service answered; InvalidArgument (INVALID_OPTION) for no such rpc.
        """
        rpc = rpcs.answered_once(method, request)
        answer: Message = (
            self._transport.unary(rpc, request, timeout=timeout)
            if isinstance(request, Message)
            else self._transport.upload(rpc, request, timeout=timeout)
        )
        return answer

    def close(self) -> None:
        """Close the channels. Open event streams end with ClientClosed."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"options": self._transport.options.without_secrets()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._transport = Transport(state["options"])
