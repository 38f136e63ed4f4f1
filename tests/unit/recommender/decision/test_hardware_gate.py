# SPDX-License-Identifier: Apache-2.0
"""A tight fit yields to a smaller method, and more memory still never takes less quality (docs/decisions/0021)."""

from dataclasses import replace

import pytest
from finetree_api.types.v1 import evidence_pb2
from finetree_recommender.decision.pipeline import decide
from finetree_recommender.estimator.values import Estimate, Evidence, FitState
from finetree_recommender.explain import cautions
from finetree_recommender.method import Method
from finetree_recommender.recommend import conclude
from finetree_recommender.rule_pack.answers import Answers
from finetree_recommender.rule_pack.pack import builtin_packs
from hypothesis import given
from hypothesis import strategies as st

GIB = 2**30
PACK = builtin_packs()["evidence-1"]
GRADES = {method: PACK.card(method).quality_percent.expected for method in Method}
ASKED = {"memory": "24", "task_domain": "CHAT"}
CRITICAL_CODE = {"memory": "80", "task_domain": "CODE", "quality": "CRITICAL"}


@pytest.mark.parametrize(
    ("fits", "answers", "expected"),
    [
        ({"lora": "TIGHT", "qlora": "FITS"}, {}, Method.QLORA),
        ({"lora": "TIGHT", "qlora": "FITS"}, {"quality": "CRITICAL"}, Method.QLORA),
        ({"lora": "TIGHT", "qlora": "FITS"}, {"quality": "MAXIMUM"}, Method.LORA),
        ({"lora": "TIGHT", "qlora": "FITS"}, {"tasks": "MANY_DIFFERENT"}, Method.QLORA),
        ({"lora": "TIGHT", "qlora": "FITS"}, {"priorities": ("SPEED",)}, Method.QLORA),
        ({"lora": "FITS", "qlora": "FITS"}, {}, Method.LORA),
        ({"lora": "TIGHT", "qlora": "DOES_NOT_FIT"}, {}, Method.LORA),
        ({"lora": "TIGHT", "qlora": None}, {}, Method.LORA),
        ({"full": "TIGHT", "lora": "FITS", "qlora": "FITS"}, CRITICAL_CODE, Method.LORA),
        ({"full": "TIGHT", "lora": "TIGHT", "qlora": "FITS"}, CRITICAL_CODE, Method.QLORA),
        ({"full": "TIGHT", "lora": "FITS"}, CRITICAL_CODE | {"quality": "MAXIMUM"}, Method.FULL),
        ({"full": "FITS", "lora": "FITS"}, CRITICAL_CODE, Method.FULL),
    ],
)
def test_a_tight_fit_yields_unless_the_maximum_is_asked_for(evidence, fits, answers, expected):
    assert decide(PACK, Answers(**(ASKED | answers)), evidence(**fits)).method is expected


def test_the_playbook_takes_what_its_class_says_however_tight(pack, evidence):
    found = decide(pack, Answers(memory="24", quality="IMPORTANT"), evidence(lora="TIGHT", qlora="FITS"))
    assert found.method is Method.LORA


def test_the_tight_method_stays_possible_with_its_risk_named(read, evidence):
    inputs = read(hardware={"unknown_accelerator": {"marketed_memory_gb": 24}}).reread(PACK)
    answer = conclude(PACK, inputs, evidence(lora="TIGHT", qlora="FITS"))
    lora = next(item for item in answer.methods if item.method is Method.LORA)
    assert (answer.decision.method, lora.standing) == (Method.QLORA, "POSSIBLE")
    assert (lora.reasons[0].code, lora.reasons[0].rule_id) == ("MEMORY_TIGHT", "fit.tight_lora")
    assert "run out of memory" in lora.reasons[0].message
    assert "fit.tight_lora" in [step.rule_id for step in answer.trace]
    # Nothing recommends the method back for its room, and the answer itself is not tight.
    assert not {"MEMORY_TIGHT", "CAUTION_QLORA_MEMORY"} & {caution.code for caution in answer.cautions}


def test_who_asks_for_the_maximum_is_told_what_has_room(read, evidence):
    inputs = read(hardware={"unknown_accelerator": {"marketed_memory_gb": 24}}, quality="QUALITY_NEED_MAXIMUM").reread(
        PACK
    )
    answer = conclude(PACK, inputs, evidence(lora="TIGHT", qlora="FITS"))
    assert answer.decision.method is Method.LORA
    (caution,) = (item for item in answer.cautions if item.code == "MEMORY_TIGHT")
    assert caution.redirect is Method.QLORA
    assert answer.confidence.level != "HIGH"
    assert cautions.ESTIMATOR_UNAVAILABLE not in {item.code for item in answer.cautions}


needs = st.tuples(*[st.floats(1, 100)] * 4).filter(lambda n: n[0] <= n[1] and n[2] <= n[3] and n[2] <= n[0])
"""LoRA's expected peak and its upper end, then QLoRA's, which is expected to need no more."""


def on(memory: float, peaks: tuple[float, float, float, float]) -> Evidence:
    """What the estimator says of the two methods on a GPU of so many usable GiB."""
    rows = {}
    by_method = dict.fromkeys(Method, (1000.0, 2000.0)) | {Method.LORA: peaks[:2], Method.QLORA: peaks[2:]}
    for method, (expected, high) in by_method.items():
        state = FitState.FITS if high <= memory else FitState.TIGHT if expected <= memory else FitState.DOES_NOT_FIT
        peak = evidence_pb2.Interval(low=GIB, expected=expected * GIB, high=high * GIB)
        rows[method, 0] = Estimate(state, peak, int(memory * GIB), None, None, 0)
    return Evidence(rows, evidence_pb2.Revision(), None)


@given(needs)
def test_more_memory_never_takes_the_smaller_method(peaks):
    """Also of two that both fit tightly, whose upper ends decide: of mixtures of experts QLoRA has the higher."""
    taken = [decide(PACK, Answers(**ASKED), on(memory, peaks)).method for memory in sorted((*peaks, 0.5, 200.0))]
    grades = [GRADES[method] if method is not None else 0.0 for method in taken]
    assert grades == sorted(grades)
    assert taken[0] is None
    assert taken[-1] is Method.LORA


def test_other_memory_is_judged_by_the_estimate_of_the_smallest_recipe(read):
    """A recipe that cannot be made smaller fits no smaller GPU, whatever the class of 7B models says of it."""
    peaks = (60.0, 75.0, 50.0, 65.0)
    inputs = read(hardware={"unknown_accelerator": {"marketed_memory_gb": 80}}).reread(PACK)
    found = replace(on(79.0, peaks), asked={Method.LORA: 0, Method.QLORA: 0})
    answer = conclude(PACK, inputs, found)
    assert answer.decision.method is Method.LORA
    less = {flip.method: flip.threshold for flip in answer.counterfactuals if flip.field_path == "hardware"}
    # A class of 24 GB would say LoRA. No threshold names a method where it needs more.
    assert less == {Method.QLORA: 59.99, None: 49.99}
