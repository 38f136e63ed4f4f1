# SPDX-License-Identifier: Apache-2.0
"""Everything after the estimator's answer: what a reply says, as a pure function of the request, the pack and that."""

from collections.abc import Iterable
from typing import NamedTuple

from finetree_api.types.v1 import evidence_pb2 as ev
from finetree_runtime.runspec.digest import revision_text, settings_digest
from finetree_runtime.runspec.naming import names_of

from finetree_recommender.decision import fit
from finetree_recommender.decision.pipeline import Decision
from finetree_recommender.decision.situation import Situation
from finetree_recommender.estimator.values import Evidence, Priced
from finetree_recommender.explain import cautions, confidence, counterfactuals, rental_offers, unmet_limits
from finetree_recommender.explain import other_policies as other_packs
from finetree_recommender.explain.assessment import Assessment, assess
from finetree_recommender.explain.counterfactuals import Counterfactual, Gap
from finetree_recommender.explain.other_policies import OtherVerdict
from finetree_recommender.policy.pack import Pack
from finetree_recommender.policy.schema.recipe_rules import Adaptation
from finetree_recommender.recipe import build
from finetree_recommender.recipe.build import Recipe
from finetree_recommender.request.inputs import Inputs
from finetree_recommender.trace import Caution, Step


class Recommendation(NamedTuple):
    """Everything that a reply says."""

    pack: Pack
    inputs: Inputs
    decision: Decision
    recipe: Recipe | None
    """None where nothing was shown to train."""
    priced: Priced | None
    fit_steps: tuple[Step, ...]
    """The last of the trace; those before are the choice's."""
    methods: tuple[Assessment, ...]
    cautions: tuple[Caution, ...]
    counterfactuals: tuple[Counterfactual, ...]
    gaps: tuple[Gap, ...]
    confidence: confidence.Confidence
    revision: ev.Revision
    plan_digest: str
    others: tuple[OtherVerdict, ...] = ()

    @property
    def trace(self) -> tuple[Step, ...]:
        """What was decided, in order."""
        return (*self.decision.choice.steps, *self.fit_steps)


def conclude(
    pack: Pack,
    inputs: Inputs,
    evidence: Evidence | None,
    missing: str,
    others: Iterable[Pack] = (),
    *,
    rented: tuple[rental_offers.Offer, ...] = (),
) -> Recommendation:
    """Everything after the estimator's answer: pure.

    `missing` is the code of why there is no evidence, `others` are packs to compare with, `rented` is what could be
    rented.
    """
    if rented and evidence is None:
        inputs = inputs.on_offer()
    situation = Situation.of(pack, inputs, evidence)
    decision = situation.decide()
    neighbours = counterfactuals.explore(situation, decision)
    parameters = parameters_of(inputs, evidence)
    unmet = tuple(unmet_limits.unmet(situation, decision))
    built, applied = _recipe(pack, inputs, decision, parameters)
    revision = _revision(pack, evidence)
    overruled = decision.overruled_rule_id
    return Recommendation(
        pack=pack,
        inputs=inputs,
        decision=decision,
        recipe=built,
        priced=_priced(evidence, decision),
        fit_steps=tuple(fit.steps(pack, evidence, decision.settled, applied, overruled)),
        methods=assess(situation, decision, rented),
        cautions=cautions.collect(
            situation, decision, unmet, missing=missing, parameters=parameters, built=built, rented=rented
        ),
        counterfactuals=neighbours.flips,
        gaps=neighbours.gaps,
        confidence=confidence.judge(situation, decision, neighbours, parameters, len(unmet)),
        revision=revision,
        plan_digest=_digest(built, inputs, revision) if built is not None else "",
        others=other_packs.verdicts(others, situation, decision),
    )


def _recipe(
    pack: Pack, inputs: Inputs, decision: Decision, parameters: int | None
) -> tuple[build.Recipe | None, tuple[Adaptation, ...]]:
    """The recipe of the verdict, and the adaptations that are in it."""
    if decision.method is None:
        return None, ()
    adapted = decision.settled.adapted
    built = build.build(pack, inputs, decision.method, parameters=parameters, adapted=adapted)
    return built, build.adaptations(pack, inputs, decision.method)[:adapted] if adapted else ()


def _priced(evidence: Evidence | None, decision: Decision) -> Priced | None:
    """What the verdict's recipe takes, where the estimator said so."""
    if evidence is None or decision.method is None:
        return None
    row = evidence.rows.get((decision.method, decision.settled.adapted))
    return row if isinstance(row, Priced) else None


def _digest(built: Recipe, inputs: Inputs, revision: ev.Revision) -> str:
    return settings_digest(built.settings, names_of(built.spec), inputs.profile, revision_text(revision))


def parameters_of(inputs: Inputs, evidence: Evidence | None) -> int | None:
    """Size of the model; the estimator's count where it has one, else the catalogue's."""
    if evidence is not None and evidence.parameters:
        return evidence.parameters
    return (inputs.model.parameters or None) if inputs.model is not None else None


def _revision(pack: Pack, evidence: Evidence | None) -> ev.Revision:
    revision = ev.Revision()
    if evidence is not None:
        revision.CopyFrom(evidence.revision)
    revision.pack.CopyFrom(pack.revision)
    return revision
