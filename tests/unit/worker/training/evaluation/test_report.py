# SPDX-License-Identifier: Apache-2.0
"""Verdicts and conclusions: what the report says of models whose scores are known."""

from collections.abc import Sequence

import pytest
from finetree_api.trainer.v1 import evaluation_pb2
from finetree_worker.training.evaluation import metrics, report
from finetree_worker.training.evaluation.bootstrap import Interval
from finetree_worker.training.evaluation.metrics import Expected, RowScore
from finetree_worker.training.evaluation.report import Measured, Settings

ROWS = 40
BASE, PROMPTED, SUBJECT = (
    evaluation_pb2.EVALUATED_KIND_BASE,
    evaluation_pb2.EVALUATED_KIND_PROMPTED_BASE,
    evaluation_pb2.EVALUATED_KIND_SUBJECT,
)
EXPECTED = [Expected(f"word{i}") for i in range(ROWS)]


def answering(right: int, label: str, kind: int, **more: Sequence[RowScore]) -> Measured:
    """A model that answers its first `right` rows, with a loss that falls with them."""
    scores = [
        RowScore(1.0 if i < right else 3.0 + i / ROWS, i < right, 2, f"word{i}" if i < right else "other")
        for i in range(ROWS)
    ]
    return Measured(label, kind, scores, **more)


def built(*models: Measured, decide_by: int = metrics.F1, **more: int) -> evaluation_pb2.EvaluationReport:
    chosen = (metrics.LOSS, metrics.PERPLEXITY, metrics.TOKEN_ACCURACY, metrics.EXACT_MATCH, metrics.F1, 9)
    return report.build(models, EXPECTED, Settings(chosen, decide_by, seed=0, resamples=2_000, **more))


@pytest.mark.parametrize(
    ("base", "prompted", "subject", "conclusion"),
    [
        (4, None, 30, "BETTER"),
        (30, None, 4, "WORSE"),
        (20, None, 21, "NOT_TOLD_APART"),
        (4, 12, 34, "BETTER"),
        (4, 29, 30, "NOT_WORTH_IT"),
        (4, 38, 20, "NOT_WORTH_IT"),
        (20, 20, 20, "NOT_WORTH_IT"),
        # Of five rows that differ all speak for it: too few to tell, and no reason to say that a prompt does as well.
        (4, 25, 30, "NOT_TOLD_APART"),
        # What harms is said, whatever a prompt does.
        (30, 35, 4, "WORSE"),
    ],
)
def test_the_first_line_says_what_to_make_of_a_subject(
    base: int, prompted: int | None, subject: int, conclusion: str
) -> None:
    models = [answering(base, "base", BASE)]
    if prompted is not None:
        models.append(answering(prompted, "base with 4 examples", PROMPTED))
    found = built(*models, answering(subject, "mine", SUBJECT))
    assert found.headline.startswith(f"{conclusion}: mine: F1 {subject / ROWS:.3f}, base")
    assert [evaluation_pb2.EvaluationConclusion.Name(one.conclusion) for one in found.conclusions] == [
        f"EVALUATION_CONCLUSION_{conclusion}"
    ]


def test_every_pair_is_compared_and_the_lower_loss_is_the_better_one() -> None:
    found = built(answering(4, "base", BASE), answering(30, "a", SUBJECT), answering(12, "b", SUBJECT))
    loss = {(one.label, one.against): one for one in found.comparisons if one.metric == metrics.LOSS}
    assert set(loss) == {("a", "base"), ("b", "base"), ("a", "b")}
    for one in loss.values():
        assert one.low < one.difference < one.high < 0
        assert one.verdict == evaluation_pb2.EVALUATION_VERDICT_BETTER
        assert one.rows == ROWS
    assert loss["a", "base"].differing_rows == 26
    assert found.headline == "BETTER: a, b (by F1)"
    assert [one.label for one in found.models] == ["base", "a", "b"]
    values = {one.metric: one for one in found.models[1].metrics}
    assert values[metrics.EXACT_MATCH].value == 30 / ROWS
    assert values[metrics.EXACT_MATCH].low < 30 / ROWS < values[metrics.EXACT_MATCH].high


def test_five_rows_that_differ_are_not_enough_for_a_verdict() -> None:
    """A two-sided sign test of five equal signs has a probability of 2/2^5, more than 5 %."""
    for differing, verdict in ((5, "NOT_TOLD_APART"), (6, "BETTER")):
        found = built(answering(4, "base", BASE), answering(4 + differing, "mine", SUBJECT))
        one = next(one for one in found.comparisons if one.metric == metrics.EXACT_MATCH)
        assert one.low > 0, "the bootstrap alone would call it better"
        assert evaluation_pb2.EvaluationVerdict.Name(one.verdict) == f"EVALUATION_VERDICT_{verdict}"


def test_an_interval_that_touches_zero_tells_nothing() -> None:
    for interval in (Interval(0.1, 0.0, 0.2), Interval(0.1, None, None)):
        found = report.verdict(interval, metrics.F1, differing=30)
        assert found == evaluation_pb2.EVALUATION_VERDICT_NOT_TOLD_APART


def test_a_general_loss_that_grew_is_a_caution() -> None:
    before = [RowScore(20.0 + i % 7, 1, 10) for i in range(30)]
    after = [RowScore(24.0 + i % 5, 1, 10) for i in range(30)]
    base = answering(4, "base", BASE, general=before)
    found = built(base, answering(30, "mine", SUBJECT, general=after))
    assert [one.code for one in found.cautions] == ["GENERAL_LOSS_GREW"]
    assert "mine" in found.cautions[0].message
    one = next(one for one in found.comparisons if one.metric == metrics.GENERAL_LOSS)
    assert one.rows == 30
    assert one.verdict == evaluation_pb2.EVALUATION_VERDICT_WORSE
    unharmed = built(base, answering(30, "mine", SUBJECT, general=before))
    assert not unharmed.cautions


def test_few_rows_are_a_caution() -> None:
    few = [RowScore(1.0, 1, 2, "x")] * 3
    settings = Settings((metrics.LOSS,), metrics.LOSS, seed=0, resamples=1_000)
    found = report.build([Measured("base", BASE, few), Measured("mine", SUBJECT, few)], [Expected("x")] * 3, settings)
    assert [one.code for one in found.cautions] == ["FEW_ROWS"]


def test_a_loss_that_is_not_finite_is_unset_and_tells_nothing() -> None:
    broken = Measured("mine", SUBJECT, [RowScore(float("nan"), 0, 2, "other")] * ROWS)
    found = built(answering(4, "base", BASE), broken, decide_by=metrics.LOSS)
    values = {one.metric: one for one in found.models[1].metrics}
    assert not values[metrics.LOSS].HasField("value")
    assert found.headline == "NOT_TOLD_APART: mine: loss not finite, base 1.642, difference unknown"
