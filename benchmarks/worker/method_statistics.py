# SPDX-License-Identifier: Apache-2.0
"""What the runs of the method comparison say together: one summary for each task and method."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

Z = 1.959964
"""Half-width of a 95 % interval in standard deviations."""
WARM_UP = 3
"""First steps of a timed run, which are left out."""
Found = dict[str, Any]
"""The result of a run, as a state folder keeps it."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What a method costs on a quiet machine. Seconds are medians; tokens are those of rows, no padding."""

    step_seconds: float
    evaluation_seconds: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """An accuracy over that of full fine-tuning, with its 95 % interval; None where full answers nothing."""

    expected: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Summary:
    """All scored runs of a method on a task. Accuracies are shares of the held-out questions, losses nats a token."""

    task: str
    method: str
    seeds: tuple[int, ...]
    questions: int
    """Of all seeds together."""
    correct: int
    accuracy_before: float
    accuracy: float
    accuracy_lowest: float
    accuracy_highest: float
    relative_to_full: Ratio | None
    train_loss: float
    """Mean over the last tenth of the steps."""
    held_out_loss: float
    perplexity: float
    token_accuracy: float
    learning_rate: float
    trainable_parameters: int
    trainable_share: float
    steps: int
    tokens: int
    peak_bytes: int
    artifact_bytes: int
    seconds: float | None
    """Of the steps at their median and two evaluations; None where no speed was measured."""
    pace: Pace | None

    def document(self) -> dict[str, Any]:
        """As JSON, rounded to what the measurement carries."""
        return {name: _rounded(value) for name, value in asdict(self).items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def summaries(scored: Iterable[Found], paces: dict[tuple[str, str], Pace]) -> list[Summary]:
    """A summary for each task and method, in the order in which the runs come."""
    groups: dict[tuple[str, str], list[Found]] = {}
    for found in scored:
        groups.setdefault((found["run"]["task"], found["run"]["method"]), []).append(found)
    return [
        _summary(runs, groups.get((task, "full"), []), paces.get((task, method)))
        for (task, method), runs in groups.items()
    ]


def _summary(runs: list[Found], full: list[Found], pace: Pace | None) -> Summary:
    seen = [found["measured"] for found in runs]
    last = [measured["evaluations"][-1] for measured in seen]
    accuracies = [evaluation["exact_match"] for evaluation in last]
    one = seen[0]
    return Summary(
        task=runs[0]["run"]["task"],
        method=runs[0]["run"]["method"],
        seeds=tuple(found["run"]["seed"] for found in runs),
        questions=sum(evaluation["questions"] for evaluation in last),
        correct=sum(evaluation["correct"] for evaluation in last),
        accuracy_before=fmean(measured["evaluations"][0]["exact_match"] for measured in seen),
        accuracy=fmean(accuracies),
        accuracy_lowest=min(accuracies),
        accuracy_highest=max(accuracies),
        relative_to_full=relative(runs, full),
        train_loss=fmean(final_loss(measured["losses"]) for measured in seen),
        held_out_loss=fmean(evaluation["loss"] for evaluation in last),
        perplexity=fmean(evaluation["perplexity"] for evaluation in last),
        token_accuracy=fmean(evaluation["token_accuracy"] for evaluation in last),
        learning_rate=runs[0]["run"]["rate"],
        trainable_parameters=one["trainable_parameters"],
        trainable_share=one["trainable_parameters"] / one["total_parameters"],
        steps=one["steps"],
        tokens=round(fmean(measured["tokens"] for measured in seen)),
        peak_bytes=max(measured["peak_bytes"] for measured in seen),
        artifact_bytes=one["artifact_bytes"],
        seconds=one["steps"] * pace.step_seconds + 2 * pace.evaluation_seconds if pace else None,
        pace=pace,
    )


def held_out_loss(found: Found) -> float:
    """Loss of the last evaluation of a run; infinite where it is no finite number."""
    loss = found["measured"]["evaluations"][-1]["loss"]
    return float("inf") if loss is None else float(loss)


def final_loss(losses: Sequence[float | None]) -> float:
    """Mean of the last tenth of the finite losses."""
    finite = [loss for loss in losses if loss is not None]
    return fmean(finite[-max(1, len(finite) // 10) :])


def relative(runs: list[Found], full: list[Found]) -> Ratio | None:
    """Accuracy over that of full fine-tuning, on the seeds that both have.

    Questions of all seeds are taken together as independent, and so are the two methods, although both are asked the
    same: the second makes the interval wider than it need be, the first narrower; the spread over the seeds stands
    beside it. None where there is nothing to compare, or where full answers nothing.
    """
    common = _seeds(runs) & _seeds(full)
    mine, theirs = _counted(runs, common), _counted(full, common)
    if not common or not theirs[0]:
        return None
    low, high = ratio_interval(*mine, *theirs)
    return Ratio((mine[0] / mine[1]) / (theirs[0] / theirs[1]), low, high)


def _seeds(runs: list[Found]) -> set[int]:
    return {found["run"]["seed"] for found in runs}


def _counted(runs: list[Found], seeds: set[int]) -> tuple[int, int]:
    last = [found["measured"]["evaluations"][-1] for found in runs if found["run"]["seed"] in seeds]
    return sum(each["correct"] for each in last), sum(each["questions"] for each in last)


def wilson(correct: int, asked: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (E. B. Wilson 1927, J. Am. Stat. Assoc. 22:209)."""
    share, factor = correct / asked, Z * Z / asked
    middle = (share + factor / 2) / (1 + factor)
    half = Z * math.sqrt(share * (1 - share) / asked + factor / (4 * asked)) / (1 + factor)
    return max(0.0, middle - half), min(1.0, middle + half)


def ratio_interval(correct: int, asked: int, other_correct: int, other_asked: int) -> tuple[float, float]:
    """95 % interval of a ratio of two independent shares, the second one not 0.

    From both Wilson intervals by the method of variance estimates recovery (Donner and Zou 2012, Stat. Methods Med.
    Res. 21:347), which needs no share to be away from 0 or 1.
    """
    top, bottom = correct / asked, other_correct / other_asked
    low, high = wilson(correct, asked)
    other_low, other_high = wilson(other_correct, other_asked)
    product = top * bottom
    below = product**2 - low * other_high * (2 * top - low) * (2 * bottom - other_high)
    above = product**2 - high * other_low * (2 * top - high) * (2 * bottom - other_low)
    return (
        max(0.0, (product - math.sqrt(max(0.0, below))) / (other_high * (2 * bottom - other_high))),
        (product + math.sqrt(max(0.0, above))) / (other_low * (2 * bottom - other_low)),
    )


def paces(timed: Iterable[Found]) -> dict[tuple[str, str], Pace]:
    """The pace of each (task, method), over all its timed runs."""
    groups: dict[tuple[str, str], list[Found]] = {}
    for found in timed:
        groups.setdefault((found["run"]["task"], found["run"]["method"]), []).append(found["measured"])
    return {key: _pace(runs) for key, runs in groups.items()}


def _pace(runs: list[Found]) -> Pace:
    step = step_median(runs)
    tokens = fmean(run["tokens"] / run["steps"] for run in runs)
    # Not every round evaluates.
    evaluation = median(each["seconds"] for run in runs for each in run["evaluations"])
    return Pace(step, evaluation, tokens / step)


def step_median(runs: Iterable[dict[str, Any]]) -> float:
    """Median seconds of an optimizer step of what was measured in some runs, each one's first steps left out."""
    seconds: list[float] = [second for run in runs for second in run["step_seconds"][WARM_UP:]]
    return median(seconds)


def curve(losses: Sequence[float | None], points: int = 24) -> list[float]:
    """A loss curve in at most so many points, each the mean of its steps."""
    finite = [loss for loss in losses if loss is not None]
    size = max(1, math.ceil(len(finite) / points))
    return [round(fmean(finite[start : start + size]), 4) for start in range(0, len(finite), size)]
