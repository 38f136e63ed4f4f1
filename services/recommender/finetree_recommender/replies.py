# SPDX-License-Identifier: Apache-2.0
"""Domain values as messages of the contract; nothing is decided here."""

from functools import cache, lru_cache

from finetree_api.recommender.v1 import recommender_pb2 as rec

from finetree_recommender.advisor import Recommendation
from finetree_recommender.assess import Assessment
from finetree_recommender.counterfactuals import Gap
from finetree_recommender.estimates import FitState, Priced
from finetree_recommender.methods import Method
from finetree_recommender.others import OtherVerdict
from finetree_recommender.reasons import Standing
from finetree_recommender.summary import headline, paragraph
from finetree_recommender.trace import Caution, Reason, Step


def recommendation(answer: Recommendation) -> rec.RecommendResponse:
    """The reply of Recommend."""
    reply = rec.RecommendResponse(
        verdict=_verdict(answer),
        inputs=[_input(*item) for item in answer.inputs.listing],
        trace=[_step(step) for step in answer.trace],
        methods=[_assessment(item) for item in answer.methods],
        cautions=[_caution(item) for item in answer.cautions],
        counterfactuals=[
            rec.Counterfactual(
                field_path=flip.field_path,
                from_value=flip.from_value,
                to_value=flip.to_value,
                resulting_method=number(flip.method),
                threshold=flip.threshold,
                unit=flip.unit,
                rule_id=flip.rule_id,
            )
            for flip in answer.counterfactuals
        ],
        confidence=rec.Confidence(
            level=rec.ConfidenceLevel.Value(f"CONFIDENCE_LEVEL_{answer.confidence.level}"),
            factors=answer.confidence.factors,
            score=answer.confidence.score,
            definition=answer.confidence.definition,
            robustness=answer.confidence.robustness,
            abstained=answer.confidence.abstained,
        ),
        other_packs=[_other(answer, item) for item in answer.others],
        sharpen=[_unknown_input(gap) for gap in answer.gaps],
        revision=answer.revision,
        plan_digest=answer.plan_digest,
        summary=paragraph(answer),
    )
    if answer.recipe is not None:
        reply.spec.CopyFrom(answer.recipe.spec)
        reply.setting_sources.extend(answer.recipe.sources)
    if answer.priced is not None:
        reply.estimate.CopyFrom(_estimate(answer.priced))
    return reply


def _unknown_input(gap: Gap) -> rec.UnknownInput:
    names = " or ".join(gap.methods) or "no method at all"
    return rec.UnknownInput(
        field_path=gap.field_path,
        changing_share=gap.share,
        methods=[number(method) for method in gap.methods],
        message=f"{gap.field_path}: {gap.share:.0%} of its answers would change the verdict, to {names}",
    )


@cache
def number(method: Method | None) -> rec.Method.ValueType:
    """A method of the contract; unspecified for none."""
    return rec.Method.Value(f"METHOD_{method}") if method is not None else rec.METHOD_UNSPECIFIED


def method_of(value: rec.Method.ValueType) -> Method:
    """The method that a number of the contract means."""
    return Method(rec.Method.Name(value).removeprefix("METHOD_"))


def _verdict(answer: Recommendation) -> rec.Verdict:
    decision = answer.decision
    return rec.Verdict(
        method=number(decision.method),
        upgrade_advised=decision.upgrade_advised,
        headline=headline(answer),
        rule_id=decision.rule_id,
    )


@lru_cache(maxsize=8192)
def _input(path: str, value: str, known: bool) -> rec.NormalizedInput:  # noqa: FBT001  # a field of an input
    """An input as it was understood; most come again, and whoever takes one copies it."""
    return rec.NormalizedInput(field_path=path, value=value, known=known)


def _step(step: Step) -> rec.TraceStep:
    return rec.TraceStep(
        stage=step.stage,
        rule_id=step.rule_id,
        inputs_read=step.inputs_read,
        outcome=step.outcome,
        provenance=step.provenance,
        overruled_rule_id=step.overruled_rule_id,
    )


def _assessment(item: Assessment) -> rec.MethodAssessment:
    return rec.MethodAssessment(
        method=number(item.method),
        verdict=_standing(item.standing),
        reasons=[_reason(reason) for reason in item.reasons],
        votes=item.votes,
        badges=item.badges,
        quality_percent=item.quality_percent,
        device_bytes=item.device_bytes,
        total_seconds=item.total_seconds,
        cost_usd=item.cost_usd,
        on_pareto_frontier=item.on_frontier,
        dominated_by=number(item.dominated_by),
    )


@lru_cache(maxsize=8192)
def _reason(reason: Reason) -> rec.MethodReason:
    return rec.MethodReason(code=reason.code, message=reason.message, rule_id=reason.rule_id)


@cache
def _standing(standing: Standing) -> rec.MethodVerdict.ValueType:
    return rec.MethodVerdict.Value(f"METHOD_VERDICT_{standing}")


def _other(answer: Recommendation, other: OtherVerdict) -> rec.OtherPackVerdict:
    return rec.OtherPackVerdict(
        policy=other.pack.rules.id,
        method=number(other.method),
        reason=other.reason,
        agrees=other.agrees,
        sha256=other.pack.sha256,
        rule_id=answer.decision.rule_id,
        other_rule_id=other.rule_id,
    )


@lru_cache(maxsize=4096)
def _caution(item: Caution) -> rec.Caution:
    return rec.Caution(code=item.code, message=item.message, rule_id=item.rule_id, redirect=number(item.redirect))


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
