# SPDX-License-Identifier: Apache-2.0
"""The fake recommender: LoRA of rank 8, or nothing where that does not fit, whatever else is asked."""

from __future__ import annotations

import json
from itertools import pairwise

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.recommender.v1 import method_card_pb2, picture_pb2, recommendation_pb2, recommender_pb2, rule_pack_pb2
from finetree_api.types.v1 import (
    check_pb2,
    estimate_summary_pb2,
    evidence_pb2,
    method_pb2,
    model_pb2,
    run_spec_pb2,
    server_pb2,
)
from google.protobuf import json_format

from finetree._shared import rpcs
from finetree.errors import NotFound
from finetree.testing import spec as specs
from finetree.testing.catalog import DATE, PRICES, find_model, require_pinned, server, usable_bytes
from finetree.testing.estimator import FakeEstimator
from finetree.testing.estimator.estimates import DOES_NOT_FIT
from finetree.testing.handlers import Handlers
from finetree.testing.requests import invalid, page
from finetree.testing.serving import check_serving

PICTURE = '<svg xmlns="http://www.w3.org/2000/svg"><title>A fake picture</title></svg>\n'
SHA256 = "0f" * 32
RULE_PACK = rule_pack_pb2.RulePack(
    id="fake-1",
    title="A fake pack",
    date=DATE,
    sha256=SHA256,
    origin=rule_pack_pb2.RULE_PACK_ORIGIN_BUILT_IN,
    default=True,
)


class FakeRecommender:
    """Answers of the recommender.

    Attributes:
        answer: what Recommend answers, for tests of a verdict of their own; None: LoRA of rank 8 where it fits.
    """

    def __init__(self, handlers: Handlers, estimator: FakeEstimator) -> None:
        self.answer: recommendation_pb2.RecommendResponse | None = None
        self._estimator = estimator
        handlers.unary(rpcs.RECOMMEND, self.recommend)
        handlers.unary(rpcs.RENDER_DECISION_TREE, self._decision_tree)
        handlers.unary(rpcs.RENDER_FRONTIER, self._frontier)
        handlers.unary(rpcs.LIST_METHODS, self._list_methods)
        handlers.unary(rpcs.GET_METHOD, self.get_method)
        handlers.unary(rpcs.LIST_RULE_PACKS, _rule_packs)
        handlers.unary(rpcs.GET_RULE_PACK, self._rule_pack)
        handlers.unary(rpcs.CHECK_SERVING, check_serving)
        handlers.unary(
            rpcs.RECOMMENDER_INFO,
            lambda _: recommender_pb2.GetServerInfoResponse(server=_server(), revision=self.revision()),
        )

    def revision(self) -> evidence_pb2.Revision:
        """What answers come from: the rule pack, and what the estimator has."""
        revision = self._estimator.revision()
        revision.pack.CopyFrom(evidence_pb2.RevisionComponent(id=RULE_PACK.id, sha256=SHA256, date=DATE))
        return revision

    def recommend(self, request: recommendation_pb2.RecommendRequest) -> recommendation_pb2.RecommendResponse:
        """Recommend LoRA of rank 8 where it fits, or what a test has stated."""
        _require_known(request)
        require_pinned(request.pinned, self.revision(), "pinned")
        if self.answer is not None:
            return self.answer
        positions = 0
        if request.HasField("model"):
            positions = find_model(request.model, "model").shape.max_position_embeddings
        usable_bytes(request.hardware, "hardware")
        _require_price(request.ownership.rented.price_id)
        profile = request.dataset_profile if request.HasField("dataset_profile") else None
        spec, sources = specs.resolve(_spec_of(request), profile, positions=positions)
        answer = recommendation_pb2.RecommendResponse(
            verdict=recommendation_pb2.Verdict(method=method_pb2.METHOD_LORA, headline="LoRA fits", rule_id="fake"),
            spec=spec,
            setting_sources=sources,
            inputs=_inputs(request),
            trace=[recommendation_pb2.TraceStep(stage="tree", rule_id="fake", outcome="LoRA")],
            methods=_assessments(),
            cautions=[recommendation_pb2.Caution(code="FAKE", message="These numbers are invented.")],
            confidence=recommendation_pb2.VerdictConfidence(
                level=evidence_pb2.CONFIDENCE_LEVEL_LOW,
                factors=[check_pb2.Remark(code="FAKE", message="invented")],
                definition="invented",
            ),
            revision=self.revision(),
            plan_digest=specs.make_plan(spec, profile, self._estimator.revision()).digest,
            summary="LoRA of rank 8.",
        )
        if not request.HasField("model"):
            answer.cautions.add(code="MODEL_UNKNOWN", message="the model is unknown: name one")
        if request.hardware.WhichOneof("device") is None:
            answer.cautions.add(code="HARDWARE_UNKNOWN", message="whether it fits is unknown: state the hardware")
        elif request.HasField("model"):
            self._price(request, answer)
        return answer

    def _price(
        self, request: recommendation_pb2.RecommendRequest, answer: recommendation_pb2.RecommendResponse
    ) -> None:
        """Estimate the recipe; where it does not fit, nothing is recommended and a way out is named."""
        asked = estimate_pb2.EstimateRunRequest(spec=answer.spec, matrix_rates=request.matrix_rates)
        if request.HasField("dataset_profile"):
            asked.dataset_profile.CopyFrom(request.dataset_profile)
        estimate = self._estimator.estimate(asked)
        for method in answer.methods:
            method.device_bytes.CopyFrom(estimate.memory.device_bytes)
        answer.estimate.CopyFrom(
            estimate_summary_pb2.EstimateSummary(
                device_bytes=estimate.memory.device_bytes,
                usable_device_bytes=estimate.memory.usable_device_bytes,
                fit=estimate.fit.verdict,
                total_seconds=estimate.time.total_seconds if estimate.HasField("time") else None,
                step_seconds=estimate.time.step_seconds if estimate.HasField("time") else None,
                cost=estimate.cost.total if estimate.cost.HasField("total") else None,
                optimizer_steps=estimate.optimizer_steps,
                revision=estimate.revision,
            )
        )
        if estimate.fit.verdict != DOES_NOT_FIT:
            return
        way = recommendation_pb2.WayOut(
            kind=recommendation_pb2.WAY_OUT_KIND_SMALLER_MODEL,
            method=method_pb2.METHOD_LORA,
            message="a smaller model, such as tiny, trains with LoRA",
            change=run_spec_pb2.RunSpec(model=model_pb2.ModelSource(name="tiny")),
            trainable_here=True,
        )
        answer.verdict.CopyFrom(
            recommendation_pb2.Verdict(upgrade_advised=True, headline=f"No method fits: {way.message}", rule_id="fake")
        )
        answer.ways_out.append(way)
        answer.cautions.insert(0, recommendation_pb2.Caution(code="NOTHING_FITS", message=estimate.fit.summary))
        answer.summary = answer.verdict.headline
        for name in ("spec", "plan_digest", "estimate", "setting_sources"):
            answer.ClearField(name)
        del answer.methods[:]
        answer.methods.extend(_assessments(fits=False))

    def get_method(self, request: method_card_pb2.GetMethodRequest) -> method_card_pb2.GetMethodResponse:
        """Get the card of a method."""
        _require_pack(request.rule_pack)
        for card in _cards():
            if card.method == request.method:
                return method_card_pb2.GetMethodResponse(method=card, revision=self.revision())
        raise invalid("method", "name one of the five methods")

    def _list_methods(self, request: method_card_pb2.ListMethodsRequest) -> method_card_pb2.ListMethodsResponse:
        _require_pack(request.rule_pack)
        return method_card_pb2.ListMethodsResponse(methods=_cards(), revision=self.revision(), guide=_guide())

    def _rule_pack(self, request: rule_pack_pb2.GetRulePackRequest) -> rule_pack_pb2.GetRulePackResponse:
        _require_pack(request.rule_pack)
        require_pinned(evidence_pb2.Revision(pack=request.pinned), self.revision(), "pinned")
        return _question()

    def _decision_tree(self, request: picture_pb2.RenderDecisionTreeRequest) -> picture_pb2.RenderDecisionTreeResponse:
        """One outcome, whatever is asked."""
        _require_pack(request.rule_pack)
        if request.HasField("request"):
            self.recommend(request.request)
        media_type, content = _TREES.get(request.format, _TREES[picture_pb2.PICTURE_FORMAT_TEXT])
        node = picture_pb2.TreeNode(
            id="fake", kind=picture_pb2.TREE_NODE_KIND_OUTCOME, label="LoRA", method=method_pb2.METHOD_LORA
        )
        return picture_pb2.RenderDecisionTreeResponse(
            media_type=media_type,
            content=content,
            nodes=[node],
            taken_ids=["fake"] if request.HasField("request") else [],
            revision=self.revision(),
        )

    def _frontier(self, request: picture_pb2.RenderFrontierRequest) -> picture_pb2.RenderFrontierResponse:
        self.recommend(request.request)
        return picture_pb2.RenderFrontierResponse(media_type="image/svg+xml", content=PICTURE, revision=self.revision())


_INPUTS = (
    "model",
    "hardware",
    "budget_per_month",
    "budget_per_run",
    "runs_per_month",
    "max_duration",
    "quality",
    "time",
    "tasks",
    "use_case",
    "task_domain",
    "behavior_change",
    "experience",
    "task_count",
    "serving",
    "priorities",
    "can_rent",
    "dataset_profile.examples",
)
_TREES = {
    picture_pb2.PICTURE_FORMAT_TEXT: ("text/plain; charset=utf-8", f"How {RULE_PACK.id} decides\n-> LoRA\n"),
    picture_pb2.PICTURE_FORMAT_MERMAID: ("text/vnd.mermaid; charset=utf-8", "flowchart TD\n  n0[LoRA]\n"),
    picture_pb2.PICTURE_FORMAT_SVG: ("image/svg+xml", PICTURE),
}
"""Media type and content of a tree, by format."""


def _server() -> server_pb2.ServerInfo:
    info = server("recommender")
    info.features.extend(("recommend", "method_cards", "rule_packs", "pictures"))
    return info


def _require_known(request: recommendation_pb2.RecommendRequest) -> None:
    _require_pack(request.rule_pack)
    for path, profile in (
        ("dataset_profile", request.dataset_profile),
        ("dataset.profile", request.dataset.profile),
        ("evaluation_profile", request.evaluation_profile),
    ):
        bounds = [bucket.upper_bound for bucket in profile.token_lengths]
        if any(left >= right for left, right in pairwise(bounds)):
            raise invalid(f"{path}.token_lengths", "upper_bound must ascend from bucket to bucket; sort them")
    for name, budget in (("budget_per_month", request.budget_per_month), ("budget_per_run", request.budget_per_run)):
        if budget.currency_code not in ("", "USD"):
            text = f"{budget.currency_code} is not converted; state the budget in USD"
            raise invalid(name, text, "CURRENCY_MISMATCH")


def _require_pack(name: str) -> None:
    if name not in ("", RULE_PACK.id):
        text = f"rule_pack: there is no rule pack {name[:80]!r}; this server has {RULE_PACK.id}"
        raise NotFound(text, reason="RULE_PACK_NOT_FOUND")


def _require_price(price_id: str) -> None:
    if price_id and all(price.price_id != price_id for price in PRICES):
        text = f"there is no price {price_id[:80]!r}; ListPrices shows all"
        raise invalid("ownership.rented.price_id", text)


def _spec_of(request: recommendation_pb2.RecommendRequest) -> run_spec_pb2.RunSpec:
    spec = run_spec_pb2.RunSpec(lora=method_pb2.Lora(rank=8, alpha=16, dropout=0.1))
    for name in ("model", "dataset", "hardware", "ownership", "evaluation"):
        if request.HasField(name):
            getattr(spec, name).CopyFrom(getattr(request, name))
    return spec


def _assessments(*, fits: bool = True) -> list[recommendation_pb2.MethodAssessment]:
    kinds = recommendation_pb2
    answers = []
    for card in _cards():
        chosen = fits and card.method == method_pb2.METHOD_LORA
        verdict = kinds.METHOD_VERDICT_RECOMMENDED if chosen else kinds.METHOD_VERDICT_REJECTED
        reason = kinds.MethodReason(code="FAKE", message="invented", rule_id="fake")
        answers.append(kinds.MethodAssessment(method=card.method, verdict=verdict, reasons=[reason]))
    return sorted(answers, key=lambda answer: answer.verdict != kinds.METHOD_VERDICT_RECOMMENDED)


def _inputs(request: recommendation_pb2.RecommendRequest) -> list[recommendation_pb2.NormalizedInput]:
    """Every input by its name, and the value that was given as proto JSON."""
    given = json_format.MessageToDict(request, preserving_proto_field_name=True)
    given["dataset_profile.examples"] = request.dataset_profile.examples or None
    inputs = []
    for path in _INPUTS:
        value = given.get(path)
        words = value if isinstance(value, str) else json.dumps(value)
        inputs.append(
            recommendation_pb2.NormalizedInput(
                field_path=path, value="unknown" if value is None else words, known=value is not None
            )
        )
    return inputs


def _rule_packs(request: rule_pack_pb2.ListRulePacksRequest) -> rule_pack_pb2.ListRulePacksResponse:
    packs, token = page([RULE_PACK], request, key=lambda pack: pack.id)
    return rule_pack_pb2.ListRulePacksResponse(rule_packs=packs, next_page_token=token)


def _question() -> rule_pack_pb2.GetRulePackResponse:
    """One question with two answers."""
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
        method_card_pb2.MethodCard(method=number, title=name.removeprefix("METHOD_").title(), trainable_here=True)
        for name, number in method_pb2.Method.items()
        if number
    ]
