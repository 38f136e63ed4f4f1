# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC109 - the parameters are the synchronous client's; a timeout becomes the call's deadline
"""Calls of the recommender: which method, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

from finetree_api.recommender.v1 import method_card_pb2, picture_pb2, recommendation_pb2, rule_pack_pb2, serving_pb2
from finetree_api.types.v1 import evidence_pb2

from finetree._async.pages import AsyncPages
from finetree._async.transport import AsyncTransport
from finetree._shared import requests, rpcs
from finetree._shared.requests import MethodName, PictureFormat, RecommendLike, ServedLike
from finetree.recommend_words import RecommendWords, recommend_request


class AsyncRecommenderCalls:
    """What the recommender answers."""

    _transport: AsyncTransport

    async def recommend(
        self,
        request: RecommendLike | None = None,
        *,
        timeout: float | None = None,
        request_id: str = "",
        **words: Unpack[RecommendWords],
    ) -> recommendation_pb2.RecommendResponse:
        """Recommend a method and a complete recipe.

        Nothing is required: `recommend(model="llama-3.1-8b", gpu="rtx-4090", quality="maximum", max_duration="8h",
        budget_per_run="50 USD")`.

        Args:
            request: a RecommendRequest, or its proto JSON as a dict; None means that the words say all.
            timeout: seconds; None means the client's timeout, else 30.
            request_id: id for the logs; empty means a new one.
            words: what `finetree recommend` takes, in its words; they replace fields of the request.

        Raises:
            InvalidArgument: a field is wrong; `violations` names it. CURRENCY_MISMATCH.
            NotFound: MODEL_NOT_FOUND, ACCELERATOR_NOT_FOUND, RULE_PACK_NOT_FOUND.
            FailedPrecondition: REVISION_UNAVAILABLE.
        """
        question = recommend_request(request, words)
        return await self._transport.unary(rpcs.RECOMMEND, question, timeout=timeout, request_id=request_id)

    async def check_serving(
        self,
        what: ServedLike,
        *,
        servers: Mapping[str, str] | Sequence[str] = (),
        timeout: float | None = None,
    ) -> serving_pb2.CheckServingResponse:
        """Tell which servers serve what a run makes, before it is trained or from the facts of what is there.

        `check_serving(spec, servers={"vllm": "0.33.0", "ollama": ""})`. No server is asked: the answers are rules, each
        with the file of the server's code in which it was read. `job.artifacts()` has them for each artifact in
        `serving`.

        Args:
            what: a RunSpec or its proto JSON as a dict, a ServedResult, or a whole CheckServingRequest.
            servers: "vllm", "ollama", "llama.cpp", "transformers", "finetree", "tgi", "sglang", with their versions
                where these are known; empty means all.
            timeout: seconds; None means the client's timeout, else 30.

        Raises:
            InvalidArgument: a field is wrong, there is no such server, or the spec has no method.
        """
        request = requests.check_serving(what, servers)
        return await self._transport.unary(rpcs.CHECK_SERVING, request, timeout=timeout)

    async def render_decision_tree(
        self,
        request: RecommendLike | None = None,
        *,
        rule_pack: str = "",
        picture_format: PictureFormat | int = "text",
        timeout: float | None = None,
    ) -> picture_pb2.RenderDecisionTreeResponse:
        """Draw how a rule pack decides, with nodes and edges under the ids that a trace uses.

        Args:
            request: a RecommendRequest whose path is marked, or its proto JSON; None marks none.
            rule_pack: rule pack; empty means the request's, and without one the default.
            picture_format: "text", "mermaid" or "svg".
            timeout: seconds; None means the client's timeout, else 30.

        Raises:
            InvalidArgument: a field is wrong, or there is no such format.
            NotFound: MODEL_NOT_FOUND, ACCELERATOR_NOT_FOUND, RULE_PACK_NOT_FOUND.
            FailedPrecondition: REVISION_UNAVAILABLE.
        """
        question = requests.render_decision_tree(request, rule_pack, picture_format)
        return await self._transport.unary(rpcs.RENDER_DECISION_TREE, question, timeout=timeout)

    async def render_frontier(
        self, request: RecommendLike, *, timeout: float | None = None
    ) -> picture_pb2.RenderFrontierResponse:
        """Draw the five methods by quality, memory, time and cost, as SVG.

        Args:
            request: a RecommendRequest, or its proto JSON as a dict; nothing is required.
            timeout: seconds; None means the client's timeout, else 30.

        Raises:
            InvalidArgument: a field is wrong; `violations` names it.
            NotFound: MODEL_NOT_FOUND, ACCELERATOR_NOT_FOUND, RULE_PACK_NOT_FOUND.
            FailedPrecondition: REVISION_UNAVAILABLE.
        """
        question = picture_pb2.RenderFrontierRequest(request=requests.recommend(request))
        return await self._transport.unary(rpcs.RENDER_FRONTIER, question, timeout=timeout)

    async def list_methods(
        self, *, rule_pack: str = "", timeout: float | None = None
    ) -> list[method_card_pb2.MethodCard]:
        """Get the cards of the five methods.

        Args:
            rule_pack: rule pack; empty means the default one.
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            NotFound: RULE_PACK_NOT_FOUND.
        """
        request = method_card_pb2.ListMethodsRequest(rule_pack=rule_pack)
        return list((await self._transport.unary(rpcs.LIST_METHODS, request, timeout=timeout)).methods)

    async def method_guide(self, *, rule_pack: str = "", timeout: float | None = None) -> method_card_pb2.Guide:
        """Get what a rule pack says beside the cards: its questionnaire, hardware chart, situations and examples.

        Args:
            rule_pack: rule pack; empty means the default one.
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            NotFound: RULE_PACK_NOT_FOUND.
        """
        request = method_card_pb2.ListMethodsRequest(rule_pack=rule_pack)
        return (await self._transport.unary(rpcs.LIST_METHODS, request, timeout=timeout)).guide

    async def get_method(
        self, method: MethodName | int, *, rule_pack: str = "", timeout: float | None = None
    ) -> method_card_pb2.MethodCard:
        """Get the card of a method.

        Args:
            method: "full", "lora", "qlora", "prefix" or "adapter", or its number in the contract.
            rule_pack: rule pack; empty means the default one.
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            InvalidArgument: there is no such method.
            NotFound: RULE_PACK_NOT_FOUND.
        """
        request = requests.get_method(method, rule_pack)
        return (await self._transport.unary(rpcs.GET_METHOD, request, timeout=timeout)).method

    def list_rule_packs(
        self, *, page_size: int = 0, limit: int | None = None, page_token: str = "", timeout: float | None = None
    ) -> AsyncPages[rule_pack_pb2.RulePack]:
        """List the rule packs of the service; one that cannot be used says why in `problem`.

        Args:
            page_size: largest page; 0 means the server's choice.
            limit: items in all; None means every one.
            page_token: `next_page_token` of a page of this list, to continue behind it; empty means the beginning.
            timeout: seconds for each page; None means the client's timeout, else 10.
        """
        return AsyncPages(
            self._transport, requests.list_rule_packs(page_size), timeout, limit=limit, page_token=page_token
        )

    async def get_rule_pack(
        self,
        rule_pack: str = "",
        *,
        pinned: evidence_pb2.RevisionComponent | None = None,
        timeout: float | None = None,
    ) -> rule_pack_pb2.GetRulePackResponse:
        """Get a rule pack in full: its questionnaire, its tree and every rule.

        Args:
            rule_pack: its name; empty means the default one.
            pinned: revision that it must have.
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            NotFound: RULE_PACK_NOT_FOUND.
            FailedPrecondition: REVISION_UNAVAILABLE.
        """
        request = requests.get_rule_pack(rule_pack, pinned)
        return await self._transport.unary(rpcs.GET_RULE_PACK, request, timeout=timeout)
