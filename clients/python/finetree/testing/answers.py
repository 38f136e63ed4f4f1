# SPDX-License-Identifier: Apache-2.0
"""The recommender and the estimator of the fake suite: invented numbers that agree with each other."""

from __future__ import annotations

from finetree_api.estimator.v1 import catalog_pb2, estimate_pb2, estimator_pb2
from finetree_api.recommender.v1 import method_card_pb2, picture_pb2, recommendation_pb2, recommender_pb2, rule_pack_pb2
from finetree_api.types.v1 import estimate_summary_pb2, evidence_pb2, method_pb2, run_spec_pb2, server_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from finetree._shared import methods
from finetree._version import __version__
from finetree.errors import FinetreeError, InvalidArgument, NotFound, Violation
from finetree.testing.plans import FakePlans
from finetree.testing.wire import Wire

PARAMETERS = {"tiny": 1_000_000, "small": 135_000_000, "large": 7_000_000_000}
USABLE_BYTES = {"cpu": 8 * 2**30, "rtx-4090": 24 * 10**9}
DIGEST = "sha256:" + "0" * 64
REVISION = evidence_pb2.Revision(engine=evidence_pb2.RevisionComponent(id="fake-1", date="2026-01-01"))

PICTURE = '<svg xmlns="http://www.w3.org/2000/svg"><title>A fake picture</title></svg>\n'

POLICY = rule_pack_pb2.RulePack(
    id="fake-1", title="A fake pack", date="2026-01-01", origin=rule_pack_pb2.RULE_PACK_ORIGIN_BUILT_IN, default=True
)


class FakeAnswers:
    """Recommender and estimator."""

    def __init__(self, wire: Wire) -> None:
        wire.unary(methods.RECOMMEND, self.recommend)
        wire.unary(methods.LIST_POLICIES, lambda _: rule_pack_pb2.ListRulePacksResponse(policies=[POLICY]))
        wire.unary(methods.GET_POLICY, _policy)
        wire.unary(methods.RENDER_DECISION_TREE, _decision_tree)
        wire.unary(methods.RENDER_FRONTIER, _frontier)
        cards = method_card_pb2.ListMethodsResponse(methods=_cards(), revision=REVISION, guide=_guide())
        wire.unary(methods.LIST_METHODS, lambda _: cards)
        wire.unary(methods.GET_METHOD, self.get_method)
        wire.unary(
            methods.RECOMMENDER_INFO, lambda _: recommender_pb2.GetServerInfoResponse(server=server("recommender"))
        )
        wire.unary(
            methods.ESTIMATE_RUN, lambda request: estimator_pb2.EstimateRunResponse(estimate=self.estimate(request))
        )
        wire.unary(methods.BATCH_ESTIMATE, self.batch)
        wire.unary(methods.LIST_MODELS, self.models)
        wire.unary(methods.LIST_ACCELERATORS, self.accelerators)
        self.plans = FakePlans(wire, self.estimate)
        wire.unary(methods.ESTIMATOR_INFO, lambda _: estimator_pb2.GetServerInfoResponse(server=server("estimator")))

    def recommend(self, request: recommendation_pb2.RecommendRequest) -> recommendation_pb2.RecommendResponse:
        """LoRA of rank 8, whatever was asked."""
        spec = run_spec_pb2.RunSpec(model=request.model, lora=method_pb2.Lora(rank=8, alpha=16, dropout=0.1))
        if request.HasField("dataset"):
            spec.dataset.CopyFrom(request.dataset)
        if request.HasField("hardware"):
            spec.hardware.CopyFrom(request.hardware)
        peak = interval(_bytes(spec, "model"))
        return recommendation_pb2.RecommendResponse(
            verdict=recommendation_pb2.Verdict(method=method_pb2.METHOD_LORA, headline="LoRA fits", rule_id="fake"),
            spec=spec,
            methods=[recommendation_pb2.MethodAssessment(method=card.method, device_bytes=peak) for card in _cards()],
            revision=REVISION,
            plan_digest=DIGEST,
            summary="LoRA of rank 8.",
        )

    def get_method(self, request: method_card_pb2.GetMethodRequest) -> method_card_pb2.GetMethodResponse:
        """The card of a method."""
        for card in _cards():
            if card.method == request.method:
                return method_card_pb2.GetMethodResponse(method=card, revision=REVISION)
        raise invalid("method", "name one of the five methods")

    def estimate(self, request: estimate_pb2.EstimateRunRequest) -> estimate_pb2.Estimate:
        """Two bytes a parameter, and everything else in proportion."""
        spec = request.spec
        peak = _bytes(spec, "spec.model")
        usable = USABLE_BYTES[_device(spec)]
        parts = {
            estimate_pb2.MEMORY_COMPONENT_KIND_BASE_WEIGHTS: peak * 3 // 4,
            estimate_pb2.MEMORY_COMPONENT_KIND_ACTIVATIONS: peak // 4,
        }
        return estimate_pb2.Estimate(
            resolved_spec=spec,
            memory=estimate_pb2.MemoryEstimate(
                components=[
                    estimate_pb2.MemoryComponent(kind=kind, bytes=interval(size)) for kind, size in parts.items()
                ],
                device_bytes=interval(sum(parts.values())),
                usable_device_bytes=usable,
            ),
            fit=estimate_pb2.Fit(
                verdict=estimate_summary_pb2.FIT_VERDICT_FITS
                if peak < usable
                else estimate_summary_pb2.FIT_VERDICT_DOES_NOT_FIT,
                headroom_bytes=usable - peak,
            ),
            time=estimate_pb2.TimeEstimate(total_seconds=interval(peak / 1e7)),
            cost=estimate_pb2.CostEstimate(amount=interval(peak / 1e9), currency_code="USD"),
            total_parameters=peak // 2,
            revision=REVISION,
            plan_digest=DIGEST,
        )

    def batch(self, request: estimator_pb2.BatchEstimateRunsRequest) -> estimator_pb2.BatchEstimateRunsResponse:
        """Row by row; a row that fails holds its status."""
        return estimator_pb2.BatchEstimateRunsResponse(results=[self._row(row) for row in request.rows])

    def models(self, request: catalog_pb2.ListModelsRequest) -> catalog_pb2.ListModelsResponse:
        """Three models, in pages."""
        names = sorted(name for name in PARAMETERS if name.startswith(request.prefix.lower()))
        start, size = int(request.page_token or 0), request.page_size or 50
        chosen = [catalog_pb2.Model(name=name, parameters=PARAMETERS[name]) for name in names[start : start + size]]
        return catalog_pb2.ListModelsResponse(models=chosen, next_page_token=next_token(start + size, len(names)))

    def accelerators(self, request: catalog_pb2.ListAcceleratorsRequest) -> catalog_pb2.ListAcceleratorsResponse:
        """One accelerator."""
        names = [name for name in USABLE_BYTES if name != "cpu" and name.startswith(request.prefix.lower())]
        return catalog_pb2.ListAcceleratorsResponse(
            accelerators=[catalog_pb2.Accelerator(name=name, usable_bytes=USABLE_BYTES[name]) for name in names]
        )

    def _row(self, row: estimator_pb2.BatchEstimateRow) -> estimator_pb2.BatchEstimateResult:
        try:
            return estimator_pb2.BatchEstimateResult(key=row.key, estimate=self.estimate(row.request))
        except FinetreeError as error:
            status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=error.message)
            status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain="finetree"))
            return estimator_pb2.BatchEstimateResult(key=row.key, error=status)


def interval(expected: float) -> evidence_pb2.Interval:
    """Ten percent around a number."""
    return evidence_pb2.Interval(low=expected * 0.9, expected=expected, high=expected * 1.1, coverage=0.9)


def server(service: str) -> server_pb2.ServerInfo:
    """What a server of the fake suite is."""
    return server_pb2.ServerInfo(service=f"finetree-{service}", version=__version__, api_revisions=["v1"])


def invalid(field: str, text: str) -> InvalidArgument:
    """The error for a wrong field."""
    return InvalidArgument(f"{field}: {text}", reason="INVALID_REQUEST", violations=(Violation(field, text),))


def next_token(end: int, total: int) -> str:
    """Token of the page that begins at `end`."""
    return str(end) if end < total else ""


def _bytes(spec: run_spec_pb2.RunSpec, field: str) -> int:
    if not spec.model.WhichOneof("source"):
        raise invalid(field, "name a model")
    name = spec.model.name
    if name and name not in PARAMETERS:
        raise NotFound(f"no model {name!r}; list_models says what there is", reason="MODEL_NOT_FOUND")
    return 2 * PARAMETERS.get(name, PARAMETERS["small"])


def _device(spec: run_spec_pb2.RunSpec) -> str:
    name = spec.hardware.accelerator or "cpu"
    if name not in USABLE_BYTES:
        raise NotFound(f"no accelerator {name!r}", reason="ACCELERATOR_NOT_FOUND")
    return name


def _policy(request: rule_pack_pb2.GetRulePackRequest) -> rule_pack_pb2.GetRulePackResponse:
    """One question with two answers."""
    if request.policy not in ("", POLICY.id):
        raise NotFound(f"policy: there is no rule pack {request.policy!r}", reason="POLICY_NOT_FOUND")
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
    return rule_pack_pb2.GetRulePackResponse(policy=POLICY, questions=[question])


def _decision_tree(request: picture_pb2.RenderDecisionTreeRequest) -> picture_pb2.RenderDecisionTreeResponse:
    """One outcome, whatever is asked."""
    contents = {
        picture_pb2.PICTURE_FORMAT_MERMAID: "flowchart TD\n  n0[LoRA]\n",
        picture_pb2.PICTURE_FORMAT_SVG: PICTURE,
    }
    return picture_pb2.RenderDecisionTreeResponse(
        media_type="image/svg+xml" if request.format == picture_pb2.PICTURE_FORMAT_SVG else "text/plain; charset=utf-8",
        content=contents.get(request.format, "-> LoRA\n"),
        nodes=[
            picture_pb2.TreeNode(
                id="fake", kind=picture_pb2.TREE_NODE_KIND_OUTCOME, label="LoRA", method=method_pb2.METHOD_LORA
            )
        ],
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
            id=f"vote.{word}", value=word, votes=[method], request=recommendation_pb2.RecommendRequest(time=time)
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
