# SPDX-License-Identifier: Apache-2.0
"""The reply of Recommend; nothing is decided here."""

from finetree_api.recommender.v1 import recommender_pb2 as rec

from finetree_recommender.estimator.values import FitState, Priced
from finetree_recommender.explain.assessment import Assessment
from finetree_recommender.explain.counterfactuals import Counterfactual, Gap
from finetree_recommender.explain.other_policies import OtherVerdict
from finetree_recommender.messages.methods import number
from finetree_recommender.messages.summary import headline, paragraph
from finetree_recommender.policy.pack import Pack
from finetree_recommender.recommend import Recommendation
from finetree_recommender.trace import Caution, Step


def recommendation(answer: Recommendation) -> rec.RecommendResponse:
    """Write the reply of Recommend."""
    recipe, verdict = answer.recipe, answer.decision.verdict
    return rec.RecommendResponse(
        verdict=rec.Verdict(
            method=number(verdict.method),
            upgrade_advised=answer.decision.upgrade_advised,
            headline=headline(answer),
            rule_id=verdict.rule_id,
        ),
        spec=recipe.spec if recipe is not None else None,
        setting_sources=recipe.sources if recipe is not None else (),
        inputs=[
            rec.NormalizedInput(field_path=item.field_path, value=item.value, known=item.known)
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
        estimate=_estimate(answer.priced) if answer.priced is not None else None,
        summary=paragraph(answer),
        sharpen=map(_unknown_input, answer.gaps),
    )


def _step(pack: Pack, step: Step) -> rec.TraceStep:
    return rec.TraceStep(
        stage=step.stage,
        rule_id=step.rule_id,
        inputs_read=step.inputs_read,
        outcome=step.outcome,
        provenance=pack.provenance(step.source),
        overruled_rule_id=step.overruled_rule_id,
    )


def _assessment(item: Assessment) -> rec.MethodAssessment:
    figures = item.figures
    return rec.MethodAssessment(
        method=number(item.method),
        verdict=rec.MethodVerdict.Value(f"METHOD_VERDICT_{item.standing}"),
        reasons=[rec.MethodReason(code=each.code, message=each.message, rule_id=each.rule_id) for each in item.reasons],
        votes=item.votes,
        badges=item.badges,
        quality_percent=figures.quality_percent,
        device_bytes=figures.device_bytes,
        total_seconds=figures.total_seconds,
        cost_usd=figures.cost_usd,
        on_pareto_frontier=item.on_frontier,
        dominated_by=number(item.dominated_by),
    )


def _caution(item: Caution) -> rec.Caution:
    return rec.Caution(code=item.code, message=item.message, rule_id=item.rule_id, redirect=number(item.redirect))


def _counterfactual(flip: Counterfactual) -> rec.Counterfactual:
    return rec.Counterfactual(
        field_path=flip.field_path,
        from_value=flip.from_value,
        to_value=flip.to_value,
        resulting_method=number(flip.method),
        threshold=flip.threshold,
        unit=flip.unit,
        rule_id=flip.rule_id,
    )


def _confidence(answer: Recommendation) -> rec.Confidence:
    found = answer.confidence
    return rec.Confidence(
        level=rec.ConfidenceLevel.Value(f"CONFIDENCE_LEVEL_{found.level}"),
        factors=found.factors,
        score=found.score,
        definition=found.definition,
        robustness=found.robustness,
        abstained=found.abstained,
    )


def _other(other: OtherVerdict, rule_id: str) -> rec.OtherPackVerdict:
    return rec.OtherPackVerdict(
        policy=other.pack.rules.id,
        method=number(other.method),
        reason=other.reason,
        agrees=other.agrees,
        sha256=other.pack.sha256,
        rule_id=rule_id,
        other_rule_id=other.rule_id,
    )


def _estimate(priced: Priced) -> rec.RecipeEstimate:
    return rec.RecipeEstimate(
        device_bytes=priced.device_bytes,
        usable_device_bytes=priced.usable_bytes,
        total_seconds=priced.total_seconds,
        cost_amount=priced.cost,
        currency_code=priced.currency,
        fits=priced.fit is FitState.FITS,
        optimizer_steps=priced.optimizer_steps,
    )


def _unknown_input(gap: Gap) -> rec.UnknownInput:
    names = " or ".join(gap.methods) or "no method at all"
    return rec.UnknownInput(
        field_path=gap.field_path,
        changing_share=gap.share,
        methods=map(number, gap.methods),
        message=f"{gap.field_path}: {gap.share:.0%} of its answers would change the verdict, to {names}",
    )
