# SPDX-License-Identifier: Apache-2.0
"""The rpcs: messages to domain values and back."""

from finetree_api.recommender.v1 import recommender_pb2 as rec
from finetree_api.recommender.v1 import recommender_pb2_grpc
from finetree_api.types.v1 import evidence_pb2 as ev
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
        request: rec.RecommendRequest,
        context: aio.ServicerContext[rec.RecommendRequest, rec.RecommendResponse],
    ) -> rec.RecommendResponse:
        """Recommend a method and a recipe."""
        return recommendation(await self._recommender.recommend(request))

    async def RenderDecisionTree(
        self,
        request: rec.RenderDecisionTreeRequest,
        context: aio.ServicerContext[rec.RenderDecisionTreeRequest, rec.RenderDecisionTreeResponse],
    ) -> rec.RenderDecisionTreeResponse:
        """Draw a pack's way of deciding."""
        if not request.HasField("request"):
            return tree.render(self._recommender.pack(request.policy), None, request.format)
        question = rec.RecommendRequest()
        question.CopyFrom(request.request)
        question.policy = request.policy or question.policy
        answer = await self._recommender.recommend(question)
        return tree.render(answer.pack, answer, request.format)

    async def RenderFrontier(
        self,
        request: rec.RenderFrontierRequest,
        context: aio.ServicerContext[rec.RenderFrontierRequest, rec.RenderFrontierResponse],
    ) -> rec.RenderFrontierResponse:
        """Draw the five methods beside each other."""
        return frontier.render(await self._recommender.recommend(request.request))

    async def ListMethods(
        self,
        request: rec.ListMethodsRequest,
        context: aio.ServicerContext[rec.ListMethodsRequest, rec.ListMethodsResponse],
    ) -> rec.ListMethodsResponse:
        """Cards of the five methods, in the pack's order."""
        pack = self._recommender.pack(request.policy)
        cards = method_cards.cards(pack, (card.method for card in pack.rules.methods))
        revision = ev.Revision(pack=pack.revision)
        return rec.ListMethodsResponse(methods=cards, revision=revision, guide=method_cards.guide(pack))

    async def GetMethod(
        self,
        request: rec.GetMethodRequest,
        context: aio.ServicerContext[rec.GetMethodRequest, rec.GetMethodResponse],
    ) -> rec.GetMethodResponse:
        """Card of one method."""
        pack = self._recommender.pack(request.policy)
        card = method_cards.cards(pack, [method_of(request.method)])[0]
        return rec.GetMethodResponse(method=card, revision=ev.Revision(pack=pack.revision))

    async def ListPolicies(
        self,
        request: rec.ListPoliciesRequest,
        context: aio.ServicerContext[rec.ListPoliciesRequest, rec.ListPoliciesResponse],
    ) -> rec.ListPoliciesResponse:
        """All rule packs."""
        return rec.ListPoliciesResponse(policies=[policies.policy(entry) for entry in self._library.entries()])

    async def GetPolicy(
        self,
        request: rec.GetPolicyRequest,
        context: aio.ServicerContext[rec.GetPolicyRequest, rec.GetPolicyResponse],
    ) -> rec.GetPolicyResponse:
        """One rule pack."""
        pack = self._recommender.pack(request.policy)
        check_pin(request.pinned, pack, "pinned")
        entry = next(item for item in self._library.entries() if item.pack is pack)
        return policies.details(entry, pack)

    async def GetServerInfo(
        self,
        request: rec.GetServerInfoRequest,
        context: aio.ServicerContext[rec.GetServerInfoRequest, rec.GetServerInfoResponse],
    ) -> rec.GetServerInfoResponse:
        """What this server is."""
        server = ev.ServerInfo(
            service="finetree-recommender",
            version=distribution_version("finetree-recommender"),
            api_revisions=["v1"],
            features=["recommend", "method_cards", "policies", "pictures"],
        )
        pack = self._recommender.pack(DEFAULT_PACK)
        return rec.GetServerInfoResponse(server=server, revision=ev.Revision(pack=pack.revision))
