# SPDX-License-Identifier: Apache-2.0
"""The recommender as commands see it: a server, or the installed recommender in a child process."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from finetree_cli.backends.discovery import runs_locally
from finetree_cli.backends.local_process import LocalService
from finetree_cli.options.model_folder import model_root

if TYPE_CHECKING:
    from finetree import Client
    from finetree_api.recommender.v1 import recommender_pb2

    from finetree_cli.options.command import Settings


class Recommender(Protocol):
    """The recommender's rpcs, as the SDK's Client has them. Every method raises FinetreeError."""

    def recommend(self, request: "recommender_pb2.RecommendRequest", /) -> "recommender_pb2.RecommendResponse":
        """Call Recommend."""
        ...

    def render_decision_tree(
        self, request: "recommender_pb2.RecommendRequest", /, *, picture_format: int
    ) -> "recommender_pb2.RenderDecisionTreeResponse":
        """Call RenderDecisionTree with a number of PictureFormat."""
        ...

    def render_frontier(
        self, request: "recommender_pb2.RecommendRequest", /
    ) -> "recommender_pb2.RenderFrontierResponse":
        """Call RenderFrontier."""
        ...

    def get_policy(self, name: str, /) -> "recommender_pb2.GetPolicyResponse":
        """Call GetPolicy; an empty name is the default rule pack."""
        ...

    def list_policies(self) -> "list[recommender_pb2.Policy]":
        """Call ListPolicies."""
        ...

    def get_method(self, method: int, /, *, policy: str) -> "recommender_pb2.MethodCard":
        """Call GetMethod with a number of Method."""
        ...

    def list_methods(self, *, policy: str) -> "list[recommender_pb2.MethodCard]":
        """Call ListMethods and return the cards."""
        ...

    def method_guide(self, *, policy: str) -> "recommender_pb2.Guide":
        """Call ListMethods and return the guide beside the cards."""
        ...


@contextlib.contextmanager
def open_recommender(
    settings: "Settings", client: "Client", rpc: str, *, local: bool = False, model: Path | None = None
) -> Iterator[Recommender]:
    """Open the recommender for a command; `discovery.runs_locally` says which.

    Args:
        settings: addresses, and where messages go.
        client: what asks a server.
        rpc: the first rpc to be called; a child process starts at once and loads while the request is prepared.
        local: use no server.
        model: folder on this machine with the model's config.json.

    Raises:
        BadInput: A server was given a model folder.
        NotAvailable: The recommender is not installed.
    """
    if not runs_locally("recommender", settings, local=local, model=model):
        yield client
        return
    with LocalRecommender(model) as recommender:
        recommender.start(rpc)
        yield recommender


class LocalRecommender(LocalService):
    """The installed recommender in child processes; it asks the installed estimator.

    Args:
        model: folder that requests may name as `model.path`.
    """

    def __init__(self, model: Path | None = None) -> None:
        super().__init__("recommender", variables=model_root(model))

    def recommend(self, request: "recommender_pb2.RecommendRequest") -> "recommender_pb2.RecommendResponse":
        """Call Recommend."""
        from finetree_api.recommender.v1 import recommender_pb2 as pb

        return self.call("Recommend", request, pb.RecommendResponse())

    def render_decision_tree(
        self, request: "recommender_pb2.RecommendRequest", *, picture_format: int
    ) -> "recommender_pb2.RenderDecisionTreeResponse":
        """Call RenderDecisionTree."""
        from finetree_api.recommender.v1 import recommender_pb2 as pb

        question = pb.RenderDecisionTreeRequest(request=request)
        question.format = picture_format  # type: ignore[assignment]  # an open enum takes any number
        return self.call("RenderDecisionTree", question, pb.RenderDecisionTreeResponse())

    def render_frontier(self, request: "recommender_pb2.RecommendRequest") -> "recommender_pb2.RenderFrontierResponse":
        """Call RenderFrontier."""
        from finetree_api.recommender.v1 import recommender_pb2 as pb

        return self.call("RenderFrontier", pb.RenderFrontierRequest(request=request), pb.RenderFrontierResponse())

    def get_policy(self, name: str) -> "recommender_pb2.GetPolicyResponse":
        """Call GetPolicy."""
        from finetree_api.recommender.v1 import recommender_pb2 as pb

        return self.call("GetPolicy", pb.GetPolicyRequest(policy=name), pb.GetPolicyResponse())

    def list_policies(self) -> "list[recommender_pb2.Policy]":
        """Call ListPolicies."""
        from finetree_api.recommender.v1 import recommender_pb2 as pb

        return list(self.call("ListPolicies", pb.ListPoliciesRequest(), pb.ListPoliciesResponse()).policies)

    def get_method(self, method: int, *, policy: str) -> "recommender_pb2.MethodCard":
        """Call GetMethod."""
        from finetree_api.recommender.v1 import recommender_pb2 as pb

        request = pb.GetMethodRequest(policy=policy)
        request.method = method  # type: ignore[assignment]  # an open enum takes any number
        return self.call("GetMethod", request, pb.GetMethodResponse()).method

    def list_methods(self, *, policy: str) -> "list[recommender_pb2.MethodCard]":
        """Call ListMethods and return the cards."""
        return list(self._methods(policy).methods)

    def method_guide(self, *, policy: str) -> "recommender_pb2.Guide":
        """Call ListMethods and return the guide beside the cards."""
        return self._methods(policy).guide

    def _methods(self, policy: str) -> "recommender_pb2.ListMethodsResponse":
        from finetree_api.recommender.v1 import recommender_pb2 as pb

        return self.call("ListMethods", pb.ListMethodsRequest(policy=policy), pb.ListMethodsResponse())
