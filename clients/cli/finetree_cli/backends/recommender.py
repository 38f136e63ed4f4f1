# SPDX-License-Identifier: Apache-2.0
"""The recommender as commands see it: a server, or the installed recommender in a child process."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from finetree_cli.backends.discovery import runs_locally
from finetree_cli.backends.local_process import LocalService
from finetree_cli.options.model_folder import model_root

if TYPE_CHECKING:
    from finetree import Client
    from finetree_api.recommender.v1 import method_card_pb2, picture_pb2, recommendation_pb2, rule_pack_pb2, serving_pb2

    from finetree_cli.options.command import Settings


class Recommender(Protocol):
    """The recommender's rpcs, as the SDK's Client has them. Every method raises FinetreeError."""

    def recommend(self, request: "recommendation_pb2.RecommendRequest", /) -> "recommendation_pb2.RecommendResponse":
        """Call Recommend."""
        ...

    def render_decision_tree(
        self, request: "recommendation_pb2.RecommendRequest", /, *, picture_format: int
    ) -> "picture_pb2.RenderDecisionTreeResponse":
        """Call RenderDecisionTree with a number of PictureFormat."""
        ...

    def render_frontier(
        self, request: "recommendation_pb2.RecommendRequest", /
    ) -> "picture_pb2.RenderFrontierResponse":
        """Call RenderFrontier."""
        ...

    def get_rule_pack(self, name: str, /) -> "rule_pack_pb2.GetRulePackResponse":
        """Call GetRulePack; an empty name is the default rule pack."""
        ...

    def list_rule_packs(self) -> "Iterable[rule_pack_pb2.RulePack]":
        """Call ListRulePacks for all pages."""
        ...

    def list_methods(self, *, rule_pack: str) -> "list[method_card_pb2.MethodCard]":
        """Call ListMethods and return the cards."""
        ...

    def check_serving(self, request: "serving_pb2.CheckServingRequest", /) -> "serving_pb2.CheckServingResponse":
        """Call CheckServing."""
        ...

    def method_guide(self, *, rule_pack: str) -> "method_card_pb2.Guide":
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

    def recommend(self, request: "recommendation_pb2.RecommendRequest") -> "recommendation_pb2.RecommendResponse":
        """Call Recommend."""
        from finetree_api.recommender.v1 import recommendation_pb2 as pb

        return self.call("Recommend", request, pb.RecommendResponse())

    def render_decision_tree(
        self, request: "recommendation_pb2.RecommendRequest", *, picture_format: int
    ) -> "picture_pb2.RenderDecisionTreeResponse":
        """Call RenderDecisionTree."""
        from finetree_api.recommender.v1 import picture_pb2 as pb

        question = pb.RenderDecisionTreeRequest(request=request)
        question.format = picture_format  # type: ignore[assignment]  # an open enum takes any number
        return self.call("RenderDecisionTree", question, pb.RenderDecisionTreeResponse())

    def render_frontier(self, request: "recommendation_pb2.RecommendRequest") -> "picture_pb2.RenderFrontierResponse":
        """Call RenderFrontier."""
        from finetree_api.recommender.v1 import picture_pb2 as pb

        return self.call("RenderFrontier", pb.RenderFrontierRequest(request=request), pb.RenderFrontierResponse())

    def get_rule_pack(self, name: str) -> "rule_pack_pb2.GetRulePackResponse":
        """Call GetRulePack."""
        from finetree_api.recommender.v1 import rule_pack_pb2 as pb

        return self.call("GetRulePack", pb.GetRulePackRequest(rule_pack=name), pb.GetRulePackResponse())

    def list_rule_packs(self) -> "Iterator[rule_pack_pb2.RulePack]":
        """Call ListRulePacks for all pages."""
        from finetree_api.recommender.v1 import rule_pack_pb2 as pb

        for page in self.pages("ListRulePacks", pb.ListRulePacksRequest(), pb.ListRulePacksResponse):
            yield from page.rule_packs

    def list_methods(self, *, rule_pack: str) -> "list[method_card_pb2.MethodCard]":
        """Call ListMethods and return the cards."""
        return list(self._methods(rule_pack).methods)

    def check_serving(self, request: "serving_pb2.CheckServingRequest") -> "serving_pb2.CheckServingResponse":
        """Call CheckServing."""
        from finetree_api.recommender.v1 import serving_pb2 as pb

        return self.call("CheckServing", request, pb.CheckServingResponse())

    def method_guide(self, *, rule_pack: str) -> "method_card_pb2.Guide":
        """Call ListMethods and return the guide beside the cards."""
        return self._methods(rule_pack).guide

    def _methods(self, rule_pack: str) -> "method_card_pb2.ListMethodsResponse":
        from finetree_api.recommender.v1 import method_card_pb2 as pb

        return self.call("ListMethods", pb.ListMethodsRequest(rule_pack=rule_pack), pb.ListMethodsResponse())
