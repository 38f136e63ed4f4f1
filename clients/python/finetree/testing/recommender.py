# SPDX-License-Identifier: Apache-2.0
"""The fake recommender: LoRA of rank 8, whatever is asked."""

from __future__ import annotations

from finetree_api.recommender.v1 import method_card_pb2, picture_pb2, recommendation_pb2, recommender_pb2, rule_pack_pb2
from finetree_api.types.v1 import evidence_pb2, method_pb2, run_spec_pb2

from finetree._shared import rpcs
from finetree.errors import NotFound
from finetree.testing.handlers import Handlers
from finetree.testing.values import PICTURE, REVISION, interval, invalid, make_plan, page, parameters, server

RULE_PACK = rule_pack_pb2.RulePack(
    id="fake-1", title="A fake pack", date="2026-01-01", origin=rule_pack_pb2.RULE_PACK_ORIGIN_BUILT_IN, default=True
)


class FakeRecommender:
    """Answers of the recommender."""

    def __init__(self, handlers: Handlers) -> None:
        handlers.unary(rpcs.RECOMMEND, self.recommend)
        handlers.unary(rpcs.RENDER_DECISION_TREE, _decision_tree)
        handlers.unary(rpcs.RENDER_FRONTIER, _frontier)
        cards = method_card_pb2.ListMethodsResponse(methods=_cards(), revision=REVISION, guide=_guide())
        handlers.unary(rpcs.LIST_METHODS, lambda _: cards)
        handlers.unary(rpcs.GET_METHOD, self.get_method)
        handlers.unary(rpcs.LIST_RULE_PACKS, _rule_packs)
        handlers.unary(rpcs.GET_RULE_PACK, _rule_pack)
        info = recommender_pb2.GetServerInfoResponse(server=server("recommender"), revision=REVISION)
        handlers.unary(rpcs.RECOMMENDER_INFO, lambda _: info)

    def recommend(self, request: recommendation_pb2.RecommendRequest) -> recommendation_pb2.RecommendResponse:
        """Recommend LoRA of rank 8."""
        spec = run_spec_pb2.RunSpec(model=request.model, lora=method_pb2.Lora(rank=8, alpha=16, dropout=0.1))
        if request.HasField("dataset"):
            spec.dataset.CopyFrom(request.dataset)
        if request.HasField("hardware"):
            spec.hardware.CopyFrom(request.hardware)
        profile = request.dataset_profile if request.HasField("dataset_profile") else None
        peak = interval(2 * parameters(spec, "model"))
        return recommendation_pb2.RecommendResponse(
            verdict=recommendation_pb2.Verdict(method=method_pb2.METHOD_LORA, headline="LoRA fits", rule_id="fake"),
            spec=spec,
            methods=[recommendation_pb2.MethodAssessment(method=card.method, device_bytes=peak) for card in _cards()],
            cautions=[recommendation_pb2.Caution(code="FAKE", message="These numbers are invented.")],
            revision=evidence_pb2.Revision(
                engine=REVISION.engine, pack=evidence_pb2.RevisionComponent(id=RULE_PACK.id, date=RULE_PACK.date)
            ),
            plan_digest=make_plan(spec, profile).digest,
            summary="LoRA of rank 8.",
        )

    def get_method(self, request: method_card_pb2.GetMethodRequest) -> method_card_pb2.GetMethodResponse:
        """Get the card of a method."""
        for card in _cards():
            if card.method == request.method:
                return method_card_pb2.GetMethodResponse(method=card, revision=REVISION)
        raise invalid("method", "name one of the five methods")


def _rule_packs(request: rule_pack_pb2.ListRulePacksRequest) -> rule_pack_pb2.ListRulePacksResponse:
    packs, token = page([RULE_PACK], request)
    return rule_pack_pb2.ListRulePacksResponse(rule_packs=packs, next_page_token=token)


def _rule_pack(request: rule_pack_pb2.GetRulePackRequest) -> rule_pack_pb2.GetRulePackResponse:
    """One question with two answers."""
    if request.rule_pack not in ("", RULE_PACK.id):
        raise NotFound(f"rule_pack: there is no rule pack {request.rule_pack!r}", reason="RULE_PACK_NOT_FOUND")
    options = [
        rule_pack_pb2.QuestionOption(id=f"fake.{value.lower()}", value=value, label=label, request=part)
        for value, label, part in (
            (
                "CRITICAL",
                "Critical",
                recommendation_pb2.RecommendRequest(quality=recommendation_pb2.QUALITY_NEED_CRITICAL),
            ),
            (
                "EXPERIMENTAL",
                "Experimental",
                recommendation_pb2.RecommendRequest(quality=recommendation_pb2.QUALITY_NEED_EXPERIMENTAL),
            ),
        )
    ]
    question = rule_pack_pb2.Question(id="q1", field_path="quality", text="How important is quality?", options=options)
    return rule_pack_pb2.GetRulePackResponse(rule_pack=RULE_PACK, questions=[question])


def _decision_tree(request: picture_pb2.RenderDecisionTreeRequest) -> picture_pb2.RenderDecisionTreeResponse:
    """One outcome, whatever is asked."""
    contents = {
        picture_pb2.PICTURE_FORMAT_MERMAID: "flowchart TD\n  n0[LoRA]\n",
        picture_pb2.PICTURE_FORMAT_SVG: PICTURE,
    }
    svg = request.format == picture_pb2.PICTURE_FORMAT_SVG
    node = picture_pb2.TreeNode(
        id="fake", kind=picture_pb2.TREE_NODE_KIND_OUTCOME, label="LoRA", method=method_pb2.METHOD_LORA
    )
    return picture_pb2.RenderDecisionTreeResponse(
        media_type="image/svg+xml" if svg else "text/plain; charset=utf-8",
        content=contents.get(request.format, "-> LoRA\n"),
        nodes=[node],
        taken_ids=["fake"] if request.HasField("request") else [],
        revision=REVISION,
    )


def _frontier(_: picture_pb2.RenderFrontierRequest) -> picture_pb2.RenderFrontierResponse:
    return picture_pb2.RenderFrontierResponse(media_type="image/svg+xml", content=PICTURE, revision=REVISION)


def _guide() -> method_card_pb2.Guide:
    """One question with two answers, and one situation."""
    answers = (
        ("DAYS", method_pb2.METHOD_FULL, recommendation_pb2.TIME_NEED_DAYS),
        ("HOURS", method_pb2.METHOD_LORA, recommendation_pb2.TIME_NEED_HOURS),
    )
    options = [
        rule_pack_pb2.QuestionOption(
            id=f"vote.{word}",
            value=word,
            votes=[method],
            request=recommendation_pb2.RecommendRequest(time=time),
        )
        for word, method, time in answers
    ]
    question = rule_pack_pb2.Question(id="q_time", text="How long may a run take?", field_path="time", options=options)
    return method_card_pb2.Guide(
        questions=[question],
        situations=[
            method_card_pb2.Situation(id="situation.first", title="A first fine-tune", method=method_pb2.METHOD_LORA)
        ],
        hardware=[
            method_card_pb2.HardwareRow(accelerator="RTX 4090", marketed_memory_gb=24, method=method_pb2.METHOD_LORA)
        ],
    )


def _cards() -> list[method_card_pb2.MethodCard]:
    return [
        method_card_pb2.MethodCard(
            method=number, title=name.removeprefix("METHOD_").title(), trainable_here=name == "METHOD_LORA"
        )
        for name, number in method_pb2.Method.items()
        if number
    ]
