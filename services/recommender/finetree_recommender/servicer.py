# SPDX-License-Identifier: Apache-2.0
"""The rpcs: messages to domain values and back."""

from finetree_api.recommender.v1 import (
    method_card_pb2,
    picture_pb2,
    recommendation_pb2,
    recommender_pb2,
    recommender_pb2_grpc,
    rule_pack_pb2,
)
from finetree_api.types.v1 import evidence_pb2, server_pb2
from finetree_runtime.server.identity import distribution_version
from grpc import aio

from finetree_recommender.messages import method_cards, policies
from finetree_recommender.messages.methods import method_of
from finetree_recommender.messages.recommendation import recommendation
from finetree_recommender.pictures import frontier, tree
from finetree_recommender.policy.library import Library
from finetree_recommender.policy.pack import DEFAULT_PACK
from finetree_recommender.recommend import Recommender
from finetree_recommender.request.refusals import check_pin

SERVICE = "finetree_api.recommender.v1.RecommenderService"
"""Full name of the gRPC service."""


class RecommenderServicer(recommender_pb2_grpc.RecommenderServiceServicer):
    """Answers the rpcs with a recommender and the packs that it has."""

    def __init__(self, recommender: Recommender, library: Library) -> None:
        self._recommender = recommender
        self._library = library

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
        """Draw a pack's way of deciding."""
        if not request.HasField("request"):
            return tree.render(self._recommender.pack(request.policy), None, request.format)
        question = recommendation_pb2.RecommendRequest()
        question.CopyFrom(request.request)
        question.policy = request.policy or question.policy
        answer = await self._recommender.recommend(question)
        return tree.render(answer.pack, answer, request.format)

    async def RenderFrontier(
        self,
        request: picture_pb2.RenderFrontierRequest,
        context: aio.ServicerContext[picture_pb2.RenderFrontierRequest, picture_pb2.RenderFrontierResponse],
    ) -> picture_pb2.RenderFrontierResponse:
        """Draw the five methods beside each other."""
        return frontier.render(await self._recommender.recommend(request.request))

    async def ListMethods(
        self,
        request: method_card_pb2.ListMethodsRequest,
        context: aio.ServicerContext[method_card_pb2.ListMethodsRequest, method_card_pb2.ListMethodsResponse],
    ) -> method_card_pb2.ListMethodsResponse:
        """Cards of the five methods, in the pack's order."""
        pack = self._recommender.pack(request.policy)
        cards = method_cards.cards(pack, (card.method for card in pack.rules.methods))
        revision = evidence_pb2.Revision(pack=pack.revision)
        return method_card_pb2.ListMethodsResponse(methods=cards, revision=revision, guide=method_cards.guide(pack))

    async def GetMethod(
        self,
        request: method_card_pb2.GetMethodRequest,
        context: aio.ServicerContext[method_card_pb2.GetMethodRequest, method_card_pb2.GetMethodResponse],
    ) -> method_card_pb2.GetMethodResponse:
        """Card of one method."""
        pack = self._recommender.pack(request.policy)
        card = method_cards.cards(pack, [method_of(request.method)])[0]
        return method_card_pb2.GetMethodResponse(method=card, revision=evidence_pb2.Revision(pack=pack.revision))

    async def ListPolicies(
        self,
        request: rule_pack_pb2.ListRulePacksRequest,
        context: aio.ServicerContext[rule_pack_pb2.ListRulePacksRequest, rule_pack_pb2.ListRulePacksResponse],
    ) -> rule_pack_pb2.ListRulePacksResponse:
        """All rule packs."""
        return rule_pack_pb2.ListRulePacksResponse(
            policies=[policies.policy(entry) for entry in self._library.entries()]
        )

    async def GetPolicy(
        self,
        request: rule_pack_pb2.GetRulePackRequest,
        context: aio.ServicerContext[rule_pack_pb2.GetRulePackRequest, rule_pack_pb2.GetRulePackResponse],
    ) -> rule_pack_pb2.GetRulePackResponse:
        """One rule pack."""
        pack = self._recommender.pack(request.policy)
        check_pin(request.pinned, pack, "pinned")
        entry = next(item for item in self._library.entries() if item.pack is pack)
        return policies.details(entry, pack)

    async def GetServerInfo(
        self,
        request: recommender_pb2.GetServerInfoRequest,
        context: aio.ServicerContext[recommender_pb2.GetServerInfoRequest, recommender_pb2.GetServerInfoResponse],
    ) -> recommender_pb2.GetServerInfoResponse:
        """What this server is."""
        server = server_pb2.ServerInfo(
            service="finetree-recommender",
            version=distribution_version("finetree-recommender"),
            api_revisions=["v1"],
            features=["recommend", "method_cards", "policies", "pictures"],
        )
        pack = self._recommender.pack(DEFAULT_PACK)
        return recommender_pb2.GetServerInfoResponse(server=server, revision=evidence_pb2.Revision(pack=pack.revision))
