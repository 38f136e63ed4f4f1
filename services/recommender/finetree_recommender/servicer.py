# SPDX-License-Identifier: Apache-2.0
"""Rpcs of the recommender."""

from collections.abc import Mapping

from finetree_api.recommender.v1 import (
    method_card_pb2,
    picture_pb2,
    recommendation_pb2,
    recommender_pb2,
    recommender_pb2_grpc,
    rule_pack_pb2,
    serving_pb2,
)
from finetree_api.types.v1 import evidence_pb2
from finetree_runtime.paging import PageTokens, page_size
from finetree_runtime.server.identity import distribution_version, server_info
from grpc import aio

from finetree_recommender.estimator.values import Catalog
from finetree_recommender.messages import method_cards, rule_packs, serving
from finetree_recommender.messages.methods import method_of
from finetree_recommender.messages.recommendation import recommendation
from finetree_recommender.pictures import frontier, tree
from finetree_recommender.recommend import Recommender
from finetree_recommender.request.refusals import check_pin
from finetree_recommender.rule_pack.library import Library
from finetree_recommender.rule_pack.pack import DEFAULT_PACK
from finetree_recommender.settings import NAME

SERVICE = "finetree_api.recommender.v1.RecommenderService"
"""Full name of the gRPC service."""
FEATURES = ("recommend", "method_cards", "rule_packs", "pictures", "serving")
"""Features that GetServerInfo names."""
_PACKS = "rule_packs"
"""Scope of the page tokens of ListRulePacks."""


class RecommenderServicer(recommender_pb2_grpc.RecommenderServiceServicer):
    """Servicer of a recommender and its packs."""

    def __init__(
        self,
        recommender: Recommender,
        library: Library,
        *,
        page_token_key: str = "",
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self._recommender = recommender
        self._limits = dict(limits or {})
        self._library = library
        self._tokens = PageTokens(page_token_key)

    async def Recommend(
        self,
        request: recommendation_pb2.RecommendRequest,
        context: aio.ServicerContext[recommendation_pb2.RecommendRequest, recommendation_pb2.RecommendResponse],
    ) -> recommendation_pb2.RecommendResponse:
        """Recommend a method and a recipe."""
        return recommendation(await self._recommender.recommend(request))

    async def RenderDecisionTree(
        self,
        request: picture_pb2.RenderDecisionTreeRequest,
        context: aio.ServicerContext[picture_pb2.RenderDecisionTreeRequest, picture_pb2.RenderDecisionTreeResponse],
    ) -> picture_pb2.RenderDecisionTreeResponse:
        """Draw a pack's decision graph."""
        if not request.HasField("request"):
            return tree.render(self._recommender.pack(request.rule_pack), None, request.format)
        question = recommendation_pb2.RecommendRequest()
        question.CopyFrom(request.request)
        question.rule_pack = request.rule_pack or question.rule_pack
        answer = await self._recommender.recommend(question)
        return tree.render(answer.pack, answer, request.format)

    async def RenderFrontier(
        self,
        request: picture_pb2.RenderFrontierRequest,
        context: aio.ServicerContext[picture_pb2.RenderFrontierRequest, picture_pb2.RenderFrontierResponse],
    ) -> picture_pb2.RenderFrontierResponse:
        """Draw the five methods with their figures."""
        return frontier.render(await self._recommender.recommend(request.request))

    async def ListMethods(
        self,
        request: method_card_pb2.ListMethodsRequest,
        context: aio.ServicerContext[method_card_pb2.ListMethodsRequest, method_card_pb2.ListMethodsResponse],
    ) -> method_card_pb2.ListMethodsResponse:
        """List the cards of the methods, in the pack's order."""
        pack = self._recommender.pack(request.rule_pack)
        cards = method_cards.cards(pack, (card.method for card in pack.rules.methods))
        revision = evidence_pb2.Revision(pack=pack.revision)
        return method_card_pb2.ListMethodsResponse(methods=cards, revision=revision, guide=method_cards.guide(pack))

    async def GetMethod(
        self,
        request: method_card_pb2.GetMethodRequest,
        context: aio.ServicerContext[method_card_pb2.GetMethodRequest, method_card_pb2.GetMethodResponse],
    ) -> method_card_pb2.GetMethodResponse:
        """Return the card of a method."""
        pack = self._recommender.pack(request.rule_pack)
        card = method_cards.cards(pack, [method_of(request.method)])[0]
        return method_card_pb2.GetMethodResponse(method=card, revision=evidence_pb2.Revision(pack=pack.revision))

    async def ListRulePacks(
        self,
        request: rule_pack_pb2.ListRulePacksRequest,
        context: aio.ServicerContext[rule_pack_pb2.ListRulePacksRequest, rule_pack_pb2.ListRulePacksResponse],
    ) -> rule_pack_pb2.ListRulePacksResponse:
        """List the rule packs, a page at a time."""
        entries, start = self._library.entries(), int(self._tokens.read(_PACKS, request.page_token) or 0)
        end = start + page_size(request.page_size)
        return rule_pack_pb2.ListRulePacksResponse(
            rule_packs=[rule_packs.rule_pack(entry) for entry in entries[start:end]],
            next_page_token=self._tokens.issue(_PACKS, str(end)) if end < len(entries) else "",
        )

    async def GetRulePack(
        self,
        request: rule_pack_pb2.GetRulePackRequest,
        context: aio.ServicerContext[rule_pack_pb2.GetRulePackRequest, rule_pack_pb2.GetRulePackResponse],
    ) -> rule_pack_pb2.GetRulePackResponse:
        """Return a rule pack."""
        pack = self._recommender.pack(request.rule_pack)
        check_pin(request.pinned, pack, "pinned")
        entry = next(item for item in self._library.entries() if item.pack is pack)
        return rule_packs.details(entry, pack)

    async def CheckServing(
        self,
        request: serving_pb2.CheckServingRequest,
        context: aio.ServicerContext[serving_pb2.CheckServingRequest, serving_pb2.CheckServingResponse],
    ) -> serving_pb2.CheckServingResponse:
        """Tell which servers serve a result."""
        known = await self._recommender.catalog() if serving.needs_catalog(request) else Catalog()
        return serving.check_serving(request, known)

    async def GetServerInfo(
        self,
        request: recommender_pb2.GetServerInfoRequest,
        context: aio.ServicerContext[recommender_pb2.GetServerInfoRequest, recommender_pb2.GetServerInfoResponse],
    ) -> recommender_pb2.GetServerInfoResponse:
        """Return the server's version, features, limits and revision."""
        server = server_info(NAME, distribution_version(NAME), features=FEATURES, limits=self._limits)
        pack = self._recommender.pack(DEFAULT_PACK)
        return recommender_pb2.GetServerInfoResponse(server=server, revision=evidence_pb2.Revision(pack=pack.revision))
