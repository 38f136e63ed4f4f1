# SPDX-License-Identifier: Apache-2.0
"""Domain values as messages of the contract; nothing is decided here.

A reply has some two hundred messages, most of which are in the next reply too. They are kept as bytes of the wire, and
a reply is joined of them, in the order of the fields, as protobuf writes them.
"""

from functools import cache, lru_cache

from finetree_api.recommender.v1 import recommender_pb2 as rec
from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_runtime.runspec.wire import delimited, key

from finetree_recommender.conclusion import Recommendation
from finetree_recommender.decision.stages import Choice, Stage
from finetree_recommender.estimator.values import FitState, Priced
from finetree_recommender.explain.assessment import Assessment
from finetree_recommender.explain.counterfactuals import Counterfactual, Gap
from finetree_recommender.explain.other_policies import OtherVerdict
from finetree_recommender.explain.reasons import Standing
from finetree_recommender.messages.summary import headline, paragraph
from finetree_recommender.method import Method
from finetree_recommender.request.echo import Block
from finetree_recommender.trace import Caution, Reason, Step

KEPT = 8192
"""Parts of each kind that are kept; one has some hundred bytes."""


def recommendation(answer: Recommendation) -> rec.RecommendResponse:
    """The reply of Recommend."""
    return rec.RecommendResponse.FromString(recommendation_bytes(answer))


def recommendation_bytes(answer: Recommendation) -> bytes:
    """The reply of Recommend, as bytes of the wire."""
    built, decision = answer.recipe, answer.decision
    parts = [_verdict(decision.method, headline(answer), decision.rule_id, upgrade=decision.upgrade_advised)]
    if built is not None:
        parts += (delimited(_SPEC, built.spec.SerializeToString()), built.told)
    parts += map(_inputs, answer.inputs.blocks)
    parts.append(_chosen(decision.choice))
    parts += map(_step, answer.fit_steps)
    parts += map(_assessment, answer.methods)
    parts += map(_caution, answer.cautions)
    parts += map(_counterfactual, answer.counterfactuals)
    parts.append(_confidence(answer))
    parts += [_other(other, decision.rule_id) for other in answer.others]
    parts.append(delimited(_REVISION, answer.revision.SerializeToString()))
    if answer.plan_digest:
        parts.append(delimited(_DIGEST, answer.plan_digest.encode()))
    if answer.priced is not None:
        parts.append(_estimate(answer.priced))
    parts.append(delimited(_SUMMARY, paragraph(answer).encode()))
    parts += map(_unknown_input, answer.gaps)
    return b"".join(parts)


@cache
def number(method: Method | None) -> rec.Method.ValueType:
    """A method of the contract; unspecified for none."""
    return rec.Method.Value(f"METHOD_{method}") if method is not None else rec.METHOD_UNSPECIFIED


def method_of(value: rec.Method.ValueType) -> Method:
    """The method that a number of the contract means."""
    return Method(rec.Method.Name(value).removeprefix("METHOD_"))


@lru_cache(maxsize=KEPT)
def _verdict(method: Method | None, line: str, rule_id: str, *, upgrade: bool) -> bytes:
    verdict = rec.Verdict(method=number(method), upgrade_advised=upgrade, headline=line, rule_id=rule_id)
    return rec.RecommendResponse(verdict=verdict).SerializeToString()


@lru_cache(maxsize=KEPT)
def _inputs(block: Block) -> bytes:
    messages = [rec.NormalizedInput(field_path=path, value=value, known=known) for path, value, known in block.listed]
    return rec.RecommendResponse(inputs=messages).SerializeToString()


@lru_cache(maxsize=KEPT // 2)
def _chosen(choice: Choice) -> bytes:
    """The trace before the fit."""
    return b"".join([_stage(stage) for stage in choice.stages])


@lru_cache(maxsize=KEPT)
def _stage(stage: Stage) -> bytes:
    """The trace of a stage: many choices have some of theirs from others."""
    return b"".join(map(_step, stage.steps))


@lru_cache(maxsize=KEPT)
def _step(step: Step) -> bytes:
    message = rec.TraceStep(stage=step.stage, rule_id=step.rule_id, inputs_read=step.inputs_read, outcome=step.outcome)
    parts = [message.SerializeToString(), delimited(_PROVENANCE, step.provenance)]
    if step.overruled_rule_id:
        parts.append(delimited(_OVERRULED, step.overruled_rule_id.encode()))
    return delimited(_TRACE, b"".join(parts))


def _assessment(item: Assessment) -> bytes:
    parts = [_standing(item.method, item.standing), *map(_reason, item.reasons)]
    parts.append(_known(tuple(item.votes.items()), item.badges, item.quality_percent.SerializeToString()))
    for before, interval in ((_BYTES, item.device_bytes), (_SECONDS, item.total_seconds), (_COST, item.cost_usd)):
        if interval is not None:
            parts.append(delimited(before, interval.SerializeToString()))
    parts.append(_place(item.dominated_by, item.on_frontier))
    return delimited(_METHODS, b"".join(parts))


@cache
def _standing(method: Method, standing: Standing) -> bytes:
    verdict = rec.MethodVerdict.Value(f"METHOD_VERDICT_{standing}")
    return rec.MethodAssessment(method=number(method), verdict=verdict).SerializeToString()


@lru_cache(maxsize=KEPT)
def _reason(reason: Reason) -> bytes:
    message = rec.MethodReason(code=reason.code, message=reason.message, rule_id=reason.rule_id)
    return rec.MethodAssessment(reasons=[message]).SerializeToString()


@lru_cache(maxsize=KEPT)
def _known(votes: tuple[tuple[str, int], ...], badges: tuple[str, ...], quality: bytes) -> bytes:
    """What is said of a method without an estimate."""
    message = rec.MethodAssessment(votes=dict(votes), badges=badges, quality_percent=ev.Interval.FromString(quality))
    return message.SerializeToString(deterministic=True)


@cache
def _place(rival: Method | None, on_frontier: bool) -> bytes:  # noqa: FBT001 - by name it takes twice the time
    place = rec.MethodAssessment(on_pareto_frontier=on_frontier, dominated_by=number(rival))
    return place.SerializeToString()


@lru_cache(maxsize=KEPT)
def _caution(item: Caution) -> bytes:
    redirect = number(item.redirect)
    message = rec.Caution(code=item.code, message=item.message, rule_id=item.rule_id, redirect=redirect)
    return rec.RecommendResponse(cautions=[message]).SerializeToString()


@lru_cache(maxsize=KEPT)
def _counterfactual(flip: Counterfactual) -> bytes:
    message = rec.Counterfactual(
        field_path=flip.field_path,
        from_value=flip.from_value,
        to_value=flip.to_value,
        resulting_method=number(flip.method),
        threshold=flip.threshold,
        unit=flip.unit,
        rule_id=flip.rule_id,
    )
    return rec.RecommendResponse(counterfactuals=[message]).SerializeToString()


def _confidence(answer: Recommendation) -> bytes:
    found = answer.confidence
    message = rec.Confidence(
        level=rec.ConfidenceLevel.Value(f"CONFIDENCE_LEVEL_{found.level}"),
        factors=found.factors,
        score=found.score,
        definition=found.definition,
        robustness=found.robustness,
        abstained=found.abstained,
    )
    return delimited(_CONFIDENCE, message.SerializeToString())


@lru_cache(maxsize=KEPT)
def _other(other: OtherVerdict, rule_id: str) -> bytes:
    message = rec.OtherPackVerdict(
        policy=other.pack.rules.id,
        method=number(other.method),
        reason=other.reason,
        agrees=other.agrees,
        sha256=other.pack.sha256,
        rule_id=rule_id,
        other_rule_id=other.rule_id,
    )
    return rec.RecommendResponse(other_packs=[message]).SerializeToString()


def _estimate(priced: Priced) -> bytes:
    message = rec.RecipeEstimate(
        device_bytes=priced.device_bytes,
        usable_device_bytes=priced.usable_bytes,
        total_seconds=priced.total_seconds,
        cost_amount=priced.cost,
        currency_code=priced.currency,
        fits=priced.fit is FitState.FITS,
        optimizer_steps=priced.optimizer_steps,
    )
    return delimited(_ESTIMATE, message.SerializeToString())


@lru_cache(maxsize=KEPT)
def _unknown_input(gap: Gap) -> bytes:
    names = " or ".join(gap.methods) or "no method at all"
    message = rec.UnknownInput(
        field_path=gap.field_path,
        changing_share=gap.share,
        methods=[number(method) for method in gap.methods],
        message=f"{gap.field_path}: {gap.share:.0%} of its answers would change the verdict, to {names}",
    )
    return rec.RecommendResponse(sharpen=[message]).SerializeToString()


_SPEC, _CONFIDENCE, _REVISION, _DIGEST, _ESTIMATE, _SUMMARY, _METHODS = (
    key(rec.RecommendResponse, name)
    for name in ("spec", "confidence", "revision", "plan_digest", "estimate", "summary", "methods")
)
_TRACE, _PROVENANCE, _OVERRULED = (
    key(rec.RecommendResponse, "trace"),
    *(key(rec.TraceStep, name) for name in ("provenance", "overruled_rule_id")),
)
_BYTES, _SECONDS, _COST = (key(rec.MethodAssessment, name) for name in ("device_bytes", "total_seconds", "cost_usd"))
