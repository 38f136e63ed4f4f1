# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_recommender.decision import fit
from finetree_recommender.decision.pipeline import decide
from finetree_recommender.estimator.values import Evidence, FitState, Refused
from finetree_recommender.method import Method
from finetree_recommender.rule_pack.answers import UNKNOWN, Answers, vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st

CPU_VARIANTS = {Method.FULL: 3, Method.LORA: 3, Method.QLORA: 3, Method.PREFIX: 2, Method.ADAPTER: 3}


@pytest.mark.parametrize(
    ("states", "state", "adapted"),
    [
        ("FITS FITS FITS", FitState.FITS, 0),
        ("DOES_NOT_FIT FITS FITS", FitState.FITS, 1),
        ("TIGHT FITS FITS", FitState.FITS, 1),
        ("DOES_NOT_FIT TIGHT TIGHT", FitState.TIGHT, 1),
        ("DOES_NOT_FIT DOES_NOT_FIT DOES_NOT_FIT", FitState.DOES_NOT_FIT, 2),
        ("UNKNOWN UNKNOWN UNKNOWN", FitState.UNKNOWN, 0),
    ],
)
def test_the_least_adapted_recipe_that_fits_is_best(evidence, states, state, adapted):
    found = evidence(lora=states).best[Method.LORA]
    assert (found.state, found.adapted) == (state, adapted)


def test_the_rules_verdict_stands_when_it_fits(pack, evidence):
    decision = decide(pack, Answers(memory="24"), evidence(lora="FITS", qlora="FITS", full="FITS"))
    assert decision.method is Method.LORA
    assert not decision.verdict.overruled_rule_id
    assert not decision.upgrade_advised


def test_lora_that_does_not_fit_becomes_qlora(pack, evidence):
    decision = decide(pack, Answers(memory="24", tasks="SINGLE"), evidence(qlora="FITS", adapter="FITS", prefix="FITS"))
    assert decision.method is Method.QLORA
    assert decision.fit.rejected == (Method.LORA,)
    assert decision.verdict.overruled_rule_id == "votes.plurality"


def test_the_next_method_is_taken_in_the_order_of_votes(pack, evidence):
    answers = Answers(memory="16", quality="ACCEPTABLE", time="MINUTES")
    decision = decide(pack, answers, evidence(prefix="FITS"))
    assert decision.method is Method.PREFIX


def test_a_method_beyond_the_gate_is_taken_only_when_nothing_within_fits(pack, evidence):
    within = decide(pack, Answers(memory="8"), evidence(prefix="TIGHT", lora="FITS"))
    beyond = decide(pack, Answers(memory="8"), evidence(lora="FITS"))
    assert (within.method, beyond.method) == (Method.PREFIX, Method.LORA)
    assert beyond.verdict.overruled_rule_id == "votes.plurality"


def test_a_method_without_an_estimate_keeps_its_place(pack, evidence):
    decision = decide(pack, Answers(memory="8"), evidence(prefix=None, lora="FITS"))
    assert decision.method is Method.PREFIX
    assert decision.fit.state is FitState.UNKNOWN


@pytest.mark.parametrize("memory", ["cpu", "below_8"])
def test_where_the_playbook_says_upgrade_lora_is_taken_if_it_fits(pack, evidence, memory):
    decision = decide(pack, Answers(memory=memory), evidence(CPU_VARIANTS, lora="FITS", full="FITS"))
    assert decision.method is Method.LORA
    assert decision.upgrade_advised
    assert decision.verdict.overruled_rule_id == f"gate.{memory}"


def test_full_is_taken_on_a_cpu_only_for_maximum_quality(pack, evidence):
    answers = Answers(memory="cpu", quality="MAXIMUM")
    assert decide(pack, answers, evidence(CPU_VARIANTS, lora="FITS", full="TIGHT")).method is Method.FULL
    assert decide(pack, answers, evidence(CPU_VARIANTS, lora="FITS")).method is Method.LORA


@pytest.mark.parametrize(("memory", "fits"), [("cpu", "qlora"), ("cpu", "adapter"), ("below_8", "prefix")])
def test_methods_that_fit_are_named_where_the_playbook_says_upgrade(pack, evidence, memory, fits):
    for quality in ("unknown", "MAXIMUM"):
        decision = decide(pack, Answers(memory=memory, quality=quality), evidence(CPU_VARIANTS, **{fits: "FITS"}))
        assert decision.method is Method(fits.upper())
        assert decision.upgrade_advised


@pytest.mark.parametrize("lora", ["DOES_NOT_FIT", "UNKNOWN", None])
def test_upgrade_stands_unless_the_estimator_shows_a_fit(pack, evidence, lora):
    decision = decide(pack, Answers(memory="cpu"), evidence(CPU_VARIANTS, lora=lora))
    assert decision.method is None
    assert decision.upgrade_advised
    assert decision.verdict.rule_id == "fit.nothing_fits"


def test_without_the_estimator_the_playbook_decides(pack):
    assert decide(pack, Answers(memory="cpu"), None).method is None
    assert decide(pack, Answers(memory="24"), None).method is Method.LORA


def test_nothing_fits(pack, evidence):
    decision = decide(pack, Answers(memory="24"), evidence())
    assert decision.method is None
    assert decision.upgrade_advised
    assert set(decision.fit.rejected) == set(Method)


def test_the_trace_of_the_fit_stage_names_numbers_and_the_overruled_rule(pack, evidence):
    found = evidence(CPU_VARIANTS, lora="DOES_NOT_FIT FITS FITS")
    decision = decide(pack, Answers(memory="cpu"), found)
    applied = pack.rules.adaptations[:1]
    overruled = decision.verdict.overruled_rule_id
    steps = list(fit.steps(decision.fit, found, applied=applied, overruled_rule_id=overruled))
    assert [step.rule_id for step in steps] == ["fit.gradient_checkpointing", "fit.fits"]
    assert steps[-1].overruled_rule_id == "gate.cpu"
    assert "9.0 of 8.0 GiB" in steps[-1].outcome


STATES = st.sampled_from(["FITS", "TIGHT", "DOES_NOT_FIT", "UNKNOWN", None])


@settings(max_examples=150, derandomize=True)
@given(data=st.data())
def test_no_verdict_was_shown_not_to_fit(pack, evidence, data):
    words = vocabulary(pack.rules)
    answers = Answers(**{name: data.draw(st.sampled_from((*words[name], UNKNOWN)), name) for name in words})
    found = evidence(**{method.field: data.draw(STATES, method) for method in Method})
    decision = decide(pack, answers, found)
    states = found.states
    if decision.method is None:
        # Dead ends are physics: nothing that the rules may take fits.
        assert not any(states[method].trains for method in decision.choice.order.methods)
        return
    assert states[decision.method] is not FitState.DOES_NOT_FIT
    proof_needed = decision.choice.passage.upgrade
    assert not (proof_needed and states[decision.method] is FitState.UNKNOWN)


def test_refusals_are_no_evidence_of_misfit(pack, evidence):
    rows = dict.fromkeys(evidence().rows, Refused("METHOD_NOT_SUPPORTED", "no formula"))
    decision = decide(pack, Answers(memory="24"), Evidence(rows, evidence().revision, None))
    assert decision.method is Method.LORA
