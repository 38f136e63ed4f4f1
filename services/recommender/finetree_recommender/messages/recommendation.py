# SPDX-License-Identifier: Apache-2.0
"""Reply of Recommend."""

from finetree_api.recommender.v1 import recommendation_pb2
from finetree_api.types.v1 import check_pb2, estimate_summary_pb2, evidence_pb2, hardware_pb2

from finetree_recommender.estimator.values import Estimate, FitState
from finetree_recommender.explain.assessment import Assessment
from finetree_recommender.explain.counterfactuals import Counterfactual, Gap
from finetree_recommender.explain.other_packs import OtherVerdict
from finetree_recommender.explain.ways_out.offers import WayOut
from finetree_recommender.messages.methods import number
from finetree_recommender.messages.summary import headline, paragraph
from finetree_recommender.method import listed
from finetree_recommender.recommend import Recommendation
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.trace import Caution, Step


def recommendation(answer: Recommendation) -> recommendation_pb2.RecommendResponse:
    """Write the reply of Recommend."""
    recipe, verdict = answer.recipe, answer.decision.verdict
    return recommendation_pb2.RecommendResponse(
        verdict=recommendation_pb2.Verdict(
            method=number(verdict.method),
            upgrade_advised=answer.decision.upgrade_advised,
            headline=headline(answer),
            rule_id=verdict.rule_id,
        ),
        spec=recipe.spec if recipe is not None else None,
        setting_sources=recipe.sources if recipe is not None else (),
        inputs=[
            recommendation_pb2.NormalizedInput(field_path=item.field_path, value=item.value, known=item.known)
            for item in answer.inputs.echo
        ],
        trace=[_step(answer.pack, step) for step in answer.trace],
        methods=map(_assessment, answer.methods),
        cautions=map(_caution, answer.cautions),
        counterfactuals=map(_counterfactual, answer.counterfactuals),
        confidence=_confidence(answer),
        other_packs=[_other(other, verdict.rule_id) for other in answer.others],
        revision=answer.revision,
        plan_digest=answer.plan_digest,
        estimate=_estimate(answer, answer.estimate) if answer.estimate is not None else None,
        summary=paragraph(answer),
        sharpen=map(_unknown_input, answer.gaps),
        ways_out=[_way_out(answer, way) for way in answer.ways_out],
    )


def _way_out(answer: Recommendation, way: WayOut) -> recommendation_pb2.WayOut:
    return recommendation_pb2.WayOut(
        kind=recommendation_pb2.WayOutKind.Value(f"WAY_OUT_KIND_{way.kind}"),
        method=number(way.method),
        message=way.message,
        change=way.change,
        estimate=_estimate(answer, way.estimate) if way.estimate is not None else None,
        trainable_here=way.trainable_here,
    )


def _step(pack: Pack, step: Step) -> recommendation_pb2.TraceStep:
    return recommendation_pb2.TraceStep(
        stage=step.stage,
        rule_id=step.rule_id,
        inputs_read=step.inputs_read,
        outcome=step.outcome,
        provenance=pack.provenance(step.source),
        overruled_rule_id=step.overruled_rule_id,
    )


def _assessment(item: Assessment) -> recommendation_pb2.MethodAssessment:
    figures = item.figures
    return recommendation_pb2.MethodAssessment(
        method=number(item.method),
        verdict=recommendation_pb2.MethodVerdict.Value(f"METHOD_VERDICT_{item.standing}"),
        reasons=[
            recommendation_pb2.MethodReason(code=each.code, message=each.message, rule_id=each.rule_id)
            for each in item.reasons
        ],
        votes=item.votes,
        badges=item.badges,
        quality_percent=figures.quality_percent,
        device_bytes=figures.device_bytes,
        total_seconds=figures.total_seconds,
        cost=figures.cost,
        on_pareto_frontier=item.on_frontier,
        dominated_by=number(item.dominated_by),
    )


def _caution(item: Caution) -> recommendation_pb2.Caution:
    return recommendation_pb2.Caution(
        code=item.code,
        message=item.message,
        rule_id=item.rule_id,
        redirect=number(item.redirect),
        hardware=hardware_pb2.Hardware(accelerator=item.rented, count=1) if item.rented else None,
    )


def _counterfactual(flip: Counterfactual) -> recommendation_pb2.Counterfactual:
    return recommendation_pb2.Counterfactual(
        field_path=flip.field_path,
        from_value=flip.from_value,
        to_value=flip.to_value,
        resulting_method=number(flip.method),
        threshold=flip.threshold,
        unit=flip.unit,
        rule_id=flip.rule_id,
    )


def _confidence(answer: Recommendation) -> recommendation_pb2.VerdictConfidence:
    found = answer.confidence
    return recommendation_pb2.VerdictConfidence(
        level=evidence_pb2.ConfidenceLevel.Value(f"CONFIDENCE_LEVEL_{found.level}"),
        factors=[check_pb2.Remark(code=item.code, message=item.message) for item in found.factors],
        score=found.score,
        definition=found.definition,
        robustness=found.robustness,
        abstained=found.abstained,
    )


def _other(other: OtherVerdict, rule_id: str) -> recommendation_pb2.OtherPackVerdict:
    return recommendation_pb2.OtherPackVerdict(
        rule_pack=other.pack.rules.id,
        method=number(other.method),
        reason=other.reason,
        agrees=other.agrees,
        sha256=other.pack.sha256,
        rule_id=rule_id,
        other_rule_id=other.rule_id,
    )


def _estimate(answer: Recommendation, estimate: Estimate) -> estimate_summary_pb2.EstimateSummary:
    evidence = answer.situation.evidence
    return estimate_summary_pb2.EstimateSummary(
        device_bytes=estimate.device_bytes,
        usable_device_bytes=estimate.usable_bytes,
        fit=_FITS[estimate.fit],
        total_seconds=estimate.total_seconds,
        cost=estimate.cost,
        optimizer_steps=estimate.optimizer_steps,
        revision=evidence.revision if evidence is not None else None,
    )


_FITS = {
    FitState.FITS: estimate_summary_pb2.FIT_VERDICT_FITS,
    FitState.TIGHT: estimate_summary_pb2.FIT_VERDICT_TIGHT,
    FitState.DOES_NOT_FIT: estimate_summary_pb2.FIT_VERDICT_DOES_NOT_FIT,
    FitState.UNKNOWN: estimate_summary_pb2.FIT_VERDICT_UNSPECIFIED,
}


def _unknown_input(gap: Gap) -> recommendation_pb2.UnknownInput:
    names = listed(gap.methods, "or") if gap.methods else "no method at all"
    return recommendation_pb2.UnknownInput(
        field_path=gap.field_path,
        changing_share=gap.share,
        methods=map(number, gap.methods),
        message=f"{gap.field_path}: {gap.share:.0%} of its answers would change the verdict, to {names}",
    )
