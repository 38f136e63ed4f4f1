# SPDX-License-Identifier: Apache-2.0
"""Calls of the recommender and the estimator: which method, and what will it take."""

from __future__ import annotations

from finetree_api.estimator.v1 import catalog_pb2, estimate_pb2
from finetree_api.recommender.v1 import method_card_pb2, picture_pb2, recommendation_pb2, rule_pack_pb2

from finetree._shared import methods
from finetree._shared.requests import (
    BatchLike,
    EstimateLike,
    MethodName,
    PictureFormat,
    ProfileLike,
    RecommendLike,
    RevisionLike,
    View,
    batch_request,
    batch_results,
    decision_tree_request,
    estimate_request,
    get_method_request,
    recommend_request,
)
from finetree._sync.pages import Pages
from finetree._sync.transport import Transport
from finetree.errors import FinetreeError


class Questions:
    """What can be asked before anything runs."""

    _transport: Transport

    def recommend(
        self, request: RecommendLike, *, timeout: float | None = None, request_id: str = ""
    ) -> recommendation_pb2.RecommendResponse:
        """Recommend a method and a complete recipe.

        Args:
            request: a RecommendRequest, or its proto JSON as a dict; nothing is required.
            timeout: seconds; None means the client's timeout, else 30.
            request_id: id for the logs; empty means a new one.

        Raises:
            InvalidArgument: a field is wrong; `violations` names it.
            NotFound: MODEL_NOT_FOUND, ACCELERATOR_NOT_FOUND, POLICY_NOT_FOUND.
            FailedPrecondition: REVISION_UNAVAILABLE.
        """
        return self._transport.unary(
            methods.RECOMMEND, recommend_request(request), timeout=timeout, request_id=request_id
        )

    def render_decision_tree(
        self,
        request: RecommendLike | None = None,
        *,
        policy: str = "",
        picture_format: PictureFormat | int = "text",
        timeout: float | None = None,
    ) -> picture_pb2.RenderDecisionTreeResponse:
        """How a rule pack decides, as a picture, and as nodes and edges with the ids that a trace uses.

        Args:
            request: a question whose way is marked: a RecommendRequest, or its proto JSON; None marks none.
            policy: rule pack; empty means the request's, and without one the default.
            picture_format: "text", "mermaid" or "svg".
            timeout: seconds; None means the client's timeout, else 30.

        Raises:
            InvalidArgument: a field is wrong, or there is no such format.
            NotFound: MODEL_NOT_FOUND, ACCELERATOR_NOT_FOUND, POLICY_NOT_FOUND.
            FailedPrecondition: REVISION_UNAVAILABLE.
        """
        question = decision_tree_request(request, policy, picture_format)
        return self._transport.unary(methods.RENDER_DECISION_TREE, question, timeout=timeout)

    def render_frontier(
        self, request: RecommendLike, *, timeout: float | None = None
    ) -> picture_pb2.RenderFrontierResponse:
        """The five methods beside each other by quality, memory, time and cost, as SVG.

        Args:
            request: a RecommendRequest, or its proto JSON as a dict; nothing is required.
            timeout: seconds; None means the client's timeout, else 30.

        Raises:
            InvalidArgument: a field is wrong; `violations` names it.
            NotFound: MODEL_NOT_FOUND, ACCELERATOR_NOT_FOUND, POLICY_NOT_FOUND.
            FailedPrecondition: REVISION_UNAVAILABLE.
        """
        question = picture_pb2.RenderFrontierRequest(request=recommend_request(request))
        return self._transport.unary(methods.RENDER_FRONTIER, question, timeout=timeout)

    def list_methods(self, *, policy: str = "", timeout: float | None = None) -> list[method_card_pb2.MethodCard]:
        """The cards of the five methods.

        Args:
            policy: rule pack; empty means the default one.
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            NotFound: POLICY_NOT_FOUND.
        """
        request = method_card_pb2.ListMethodsRequest(policy=policy)
        return list(self._transport.unary(methods.LIST_METHODS, request, timeout=timeout).methods)

    def method_guide(self, *, policy: str = "", timeout: float | None = None) -> method_card_pb2.Guide:
        """What a rule pack says beside the cards: its questionnaire, hardware chart, situations and examples.

        Args:
            policy: rule pack; empty means the default one.
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            NotFound: POLICY_NOT_FOUND.
        """
        request = method_card_pb2.ListMethodsRequest(policy=policy)
        return self._transport.unary(methods.LIST_METHODS, request, timeout=timeout).guide

    def get_method(
        self, method: MethodName | int, *, policy: str = "", timeout: float | None = None
    ) -> method_card_pb2.MethodCard:
        """The card of a method: "full", "lora", "qlora", "prefix" or "adapter".

        Args:
            method: its name, or its number in the contract.
            policy: rule pack; empty means the default one.
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            InvalidArgument: there is no such method.
            NotFound: POLICY_NOT_FOUND.
        """
        request = get_method_request(method, policy)
        return self._transport.unary(methods.GET_METHOD, request, timeout=timeout).method

    def list_policies(self, *, timeout: float | None = None) -> list[rule_pack_pb2.RulePack]:
        """The rule packs of the service, also those that cannot be used, with what is wrong with them.

        Args:
            timeout: seconds; None means the client's timeout, else 10.
        """
        request = rule_pack_pb2.ListRulePacksRequest()
        return list(self._transport.unary(methods.LIST_POLICIES, request, timeout=timeout).policies)

    def get_policy(self, policy: str = "", *, timeout: float | None = None) -> rule_pack_pb2.GetRulePackResponse:
        """A rule pack in full: its questionnaire, its tree and every rule.

        Args:
            policy: its name; empty means the default one.
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            NotFound: POLICY_NOT_FOUND.
        """
        request = rule_pack_pb2.GetRulePackRequest(policy=policy)
        return self._transport.unary(methods.GET_POLICY, request, timeout=timeout)

    def estimate(
        self,
        spec: EstimateLike,
        *,
        dataset_profile: ProfileLike | None = None,
        evaluation_profile: ProfileLike | None = None,
        view: View = "BASIC",
        pinned: RevisionLike | None = None,
        timeout: float | None = None,
        request_id: str = "",
    ) -> estimate_pb2.Estimate:
        """Memory, time and cost of a run, as intervals.

        Args:
            spec: a RunSpec, its proto JSON as a dict, or a whole EstimateRunRequest (which leaves the rest unused).
            dataset_profile: what is known of the training data.
            evaluation_profile: what is known of the held-out data.
            view: "BASIC", or "FULL" for what a search finds: remedies and the nearest evidence.
            pinned: revisions that must be used.
            timeout: seconds; None means the client's timeout, else 10.
            request_id: id for the logs; empty means a new one.

        Raises:
            InvalidArgument: a field is wrong; `violations` names it.
            NotFound: MODEL_NOT_FOUND, ACCELERATOR_NOT_FOUND, PRICE_NOT_FOUND.
            FailedPrecondition: REVISION_UNAVAILABLE.
        """
        request = estimate_request(
            spec, dataset_profile=dataset_profile, evaluation_profile=evaluation_profile, view=view, pinned=pinned
        )
        return self._transport.unary(methods.ESTIMATE_RUN, request, timeout=timeout, request_id=request_id).estimate

    def estimate_batch(
        self, rows: BatchLike, *, timeout: float | None = None, request_id: str = ""
    ) -> dict[str, estimate_pb2.Estimate | FinetreeError]:
        """Many estimates in one call. A row that fails holds its exception and spoils no other.

        Args:
            rows: specs by a key of the caller's, at most 1000, or a whole BatchEstimateRunsRequest.
            timeout: seconds; None means the client's timeout, else 30.
            request_id: id for the logs; empty means a new one.

        Raises:
            InvalidArgument: the batch itself is wrong (too many rows, an empty key).
        """
        response = self._transport.unary(
            methods.BATCH_ESTIMATE, batch_request(rows), timeout=timeout, request_id=request_id
        )
        return batch_results(response)

    def list_models(
        self, prefix: str = "", *, page_size: int = 0, timeout: float | None = None
    ) -> Pages[catalog_pb2.Model]:
        """Models of the catalogue in the order of their names, fetched page by page.

        Args:
            prefix: only names, hub ids and families that begin with it.
            page_size: largest page; 0 means the server's choice.
            timeout: seconds for each page; None means the client's timeout, else 10.
        """

        def fetch(token: str) -> tuple[list[catalog_pb2.Model], str]:
            request = catalog_pb2.ListModelsRequest(prefix=prefix, page_size=page_size, page_token=token)
            page = self._transport.unary(methods.LIST_MODELS, request, timeout=timeout)
            return list(page.models), page.next_page_token

        return Pages(fetch)

    def list_accelerators(
        self, prefix: str = "", *, page_size: int = 0, timeout: float | None = None
    ) -> Pages[catalog_pb2.Accelerator]:
        """Accelerators of the catalogue in the order of their names, fetched page by page.

        Args:
            prefix: only names that begin with it.
            page_size: largest page; 0 means the server's choice.
            timeout: seconds for each page; None means the client's timeout, else 10.
        """

        def fetch(token: str) -> tuple[list[catalog_pb2.Accelerator], str]:
            request = catalog_pb2.ListAcceleratorsRequest(prefix=prefix, page_size=page_size, page_token=token)
            page = self._transport.unary(methods.LIST_ACCELERATORS, request, timeout=timeout)
            return list(page.accelerators), page.next_page_token

        return Pages(fetch)
