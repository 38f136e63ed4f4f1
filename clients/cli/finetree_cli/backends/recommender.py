# SPDX-License-Identifier: Apache-2.0
"""Whom recommendations are asked of: a server, or programs of one's own where none listens."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from finetree_cli.backends.discovery import Place, address_given, nobody_serves
from finetree_cli.backends.local_process import LocalPrograms
from finetree_cli.options.model_folder import refuse_server, root_of

if TYPE_CHECKING:
    from finetree import Client
    from finetree_api.recommender.v1 import recommender_pb2

    from finetree_cli.options.command import Settings

RECOMMENDER = Place("recommender", ("FINETREE_RECOMMENDER_ADDRESS", "FINETREE_ADDRESS"), 50051)


class Advisor(Protocol):
    """What answers. Every method raises FinetreeError."""

    def recommend(self, request: "recommender_pb2.RecommendRequest") -> "recommender_pb2.RecommendResponse":
        """Recommend."""
        ...

    def decision_tree(
        self, request: "recommender_pb2.RenderDecisionTreeRequest"
    ) -> "recommender_pb2.RenderDecisionTreeResponse":
        """RenderDecisionTree."""
        ...

    def frontier(self, request: "recommender_pb2.RecommendRequest") -> "recommender_pb2.RenderFrontierResponse":
        """RenderFrontier."""
        ...

    def policy(self, name: str) -> "recommender_pb2.GetPolicyResponse":
        """GetPolicy; an empty name is the default pack."""
        ...

    def policies(self) -> "list[recommender_pb2.Policy]":
        """ListPolicies."""
        ...

    def method(self, method: "recommender_pb2.Method.ValueType", policy: str) -> "recommender_pb2.MethodCard":
        """GetMethod."""
        ...

    def methods(self, policy: str) -> "tuple[list[recommender_pb2.MethodCard], recommender_pb2.Guide]":
        """ListMethods: the cards, and what the pack says beside them."""
        ...


@contextlib.contextmanager
def advisor(
    settings: "Settings", client: "Client", *, local: bool, method: str = "Recommend", model: Path | None = None
) -> Iterator[Advisor]:
    """The advisor for a command: a local one when told so, or when no address is given and nobody listens.

    `method` is the rpc that it will be asked first: a local process gets ready meanwhile. `model` is a folder of this
    machine that is asked about.
    """
    if not local:
        refuse_server(model, address_given=address_given(RECOMMENDER, settings, settings.recommender))
    if not (local or model is not None or nobody_serves(RECOMMENDER, settings, settings.recommender)):
        yield ServedAdvisor(client)
        return
    with LocalAdvisor(model) as own:
        own.prepare(method)
        yield own


class ServedAdvisor:
    """A recommender behind an address."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def recommend(self, request: "recommender_pb2.RecommendRequest") -> "recommender_pb2.RecommendResponse":
        """Recommend."""
        return self._client.recommend(request)

    def decision_tree(
        self, request: "recommender_pb2.RenderDecisionTreeRequest"
    ) -> "recommender_pb2.RenderDecisionTreeResponse":
        """RenderDecisionTree."""
        marked = request.request if request.HasField("request") else None
        return self._client.render_decision_tree(marked, policy=request.policy, picture_format=request.format)

    def frontier(self, request: "recommender_pb2.RecommendRequest") -> "recommender_pb2.RenderFrontierResponse":
        """RenderFrontier."""
        return self._client.render_frontier(request)

    def policy(self, name: str) -> "recommender_pb2.GetPolicyResponse":
        """GetPolicy."""
        return self._client.get_policy(name)

    def policies(self) -> "list[recommender_pb2.Policy]":
        """ListPolicies."""
        return self._client.list_policies()

    def method(self, method: "recommender_pb2.Method.ValueType", policy: str) -> "recommender_pb2.MethodCard":
        """GetMethod."""
        return self._client.get_method(method, policy=policy)

    def methods(self, policy: str) -> "tuple[list[recommender_pb2.MethodCard], recommender_pb2.Guide]":
        """ListMethods."""
        return self._client.list_methods(policy=policy), self._client.method_guide(policy=policy)


class LocalAdvisor(LocalPrograms):
    """A recommender of one's own, which asks an estimator of its own."""

    def __init__(self, model: Path | None = None) -> None:
        super().__init__("recommender", variables=root_of(model))

    def recommend(self, request: "recommender_pb2.RecommendRequest") -> "recommender_pb2.RecommendResponse":
        """Recommend."""
        from finetree_api.recommender.v1 import recommender_pb2 as pb

        return self.ask("Recommend", request, pb.RecommendResponse())

    def decision_tree(
        self, request: "recommender_pb2.RenderDecisionTreeRequest"
    ) -> "recommender_pb2.RenderDecisionTreeResponse":
        """RenderDecisionTree."""
        from finetree_api.recommender.v1 import recommender_pb2 as pb

        return self.ask("RenderDecisionTree", request, pb.RenderDecisionTreeResponse())

    def frontier(self, request: "recommender_pb2.RecommendRequest") -> "recommender_pb2.RenderFrontierResponse":
        """RenderFrontier."""
        from finetree_api.recommender.v1 import recommender_pb2 as pb

        return self.ask("RenderFrontier", pb.RenderFrontierRequest(request=request), pb.RenderFrontierResponse())

    def policy(self, name: str) -> "recommender_pb2.GetPolicyResponse":
        """GetPolicy."""
        from finetree_api.recommender.v1 import recommender_pb2 as pb

        return self.ask("GetPolicy", pb.GetPolicyRequest(policy=name), pb.GetPolicyResponse())

    def policies(self) -> "list[recommender_pb2.Policy]":
        """ListPolicies."""
        from finetree_api.recommender.v1 import recommender_pb2 as pb

        return list(self.ask("ListPolicies", pb.ListPoliciesRequest(), pb.ListPoliciesResponse()).policies)

    def method(self, method: "recommender_pb2.Method.ValueType", policy: str) -> "recommender_pb2.MethodCard":
        """GetMethod."""
        from finetree_api.recommender.v1 import recommender_pb2 as pb

        return self.ask("GetMethod", pb.GetMethodRequest(method=method, policy=policy), pb.GetMethodResponse()).method

    def methods(self, policy: str) -> "tuple[list[recommender_pb2.MethodCard], recommender_pb2.Guide]":
        """ListMethods."""
        from finetree_api.recommender.v1 import recommender_pb2 as pb

        answer = self.ask("ListMethods", pb.ListMethodsRequest(policy=policy), pb.ListMethodsResponse())
        return list(answer.methods), answer.guide
