# SPDX-License-Identifier: Apache-2.0
"""The limits of a run that a request states."""

from dataclasses import dataclass, replace
from typing import Literal

from finetree_api.recommender.v1.recommendation_pb2 import RecommendRequest
from finetree_runtime.money import to_float

from finetree_recommender.rule_pack.answers import SERVING_OF


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a run; None or empty where not stated."""

    max_seconds: float | None = None
    run_usd: float | None = None
    """Largest cost of one run."""
    serving: tuple[str, ...] = ()
    """Servers that must load the result."""
    capability: float | None = None
    """CUDA compute capability of the accelerator."""
    examples: int | None = None
    """Rows of the data, for the pack's own figures."""
    uneven_keys: bool = False
    """Whether not all layers of the model have keys and values of one shape."""

    def elsewhere(self, *, estimate: bool) -> "Limits":
        """Return the limits that remain on hardware without estimates.

        Where this hardware is `estimate`, hours and prices of the pack say nothing of another, so these limits are left
        out; where it is not, they are compared with the pack's own figures there as here.
        """
        if estimate:
            return Limits(serving=self.serving, examples=self.examples, uneven_keys=self.uneven_keys)
        return replace(self, capability=None)


def stated_limits(request: RecommendRequest) -> Limits:
    """Read the limits that a request states."""
    return Limits(
        max_seconds=max_seconds(request),
        run_usd=run_budget(request),
        serving=tuple(SERVING_OF[item] for item in request.serving),
    )


def max_seconds(request: RecommendRequest) -> float | None:
    """Longest time of a run."""
    return request.max_duration.ToNanoseconds() / 1e9 if request.HasField("max_duration") else None


def runs_per_month(request: RecommendRequest) -> float:
    """Runs a month; 1 where unknown."""
    return request.runs_per_month if request.HasField("runs_per_month") else 1.0


def stated_budget(request: RecommendRequest, period: Literal["run", "month"]) -> float | None:
    """Stated budget of a run or of a month in USD."""
    if period == "run":
        return to_float(request.budget_per_run) if request.HasField("budget_per_run") else None
    return to_float(request.budget_per_month) if request.HasField("budget_per_month") else None


def run_budget(request: RecommendRequest) -> float | None:
    """Budget of a run in USD: the lower of that of a run, and that of a month divided by its runs."""
    run, month = stated_budget(request, "run"), stated_budget(request, "month")
    shared = month / runs_per_month(request) if month is not None else None
    return min((usd for usd in (run, shared) if usd is not None), default=None)


def month_budget(request: RecommendRequest) -> float | None:
    """Budget of a month in USD: the stated one, else that of a run times the runs a month."""
    run, month = stated_budget(request, "run"), stated_budget(request, "month")
    if month is None and run is not None and request.HasField("runs_per_month"):
        return run * request.runs_per_month
    return month
