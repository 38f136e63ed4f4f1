# SPDX-License-Identifier: Apache-2.0
"""The limits of a run that a request states."""

from dataclasses import dataclass, replace

from finetree_api.recommender.v1 import recommender_pb2 as rec

from finetree_recommender.policy.answers import SERVING_OF


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run must keep to; None and empty where nothing was said."""

    deadline_seconds: float | None = None
    run_usd: float | None = None
    """Largest cost of one run."""
    serving: tuple[str, ...] = ()
    """Servers that must load the result."""
    capability: float | None = None
    """CUDA compute capability of the accelerator."""
    examples: int | None = None
    """Rows of the data, for the pack's own hours."""

    def elsewhere(self, *, priced: bool) -> "Limits":
        """The limits on hardware without estimates.

        Where this hardware is `priced`, hours and prices of the pack say nothing of another, so these limits are left
        out; where it is not, they are compared with the pack's own figures there as here.
        """
        if priced:
            return Limits(serving=self.serving, examples=self.examples)
        return replace(self, capability=None)


def stated_limits(request: rec.RecommendRequest) -> Limits:
    """Longest time and largest cost of a run that a request states, and where its result is served."""
    return Limits(
        deadline_seconds=deadline_seconds(request),
        run_usd=run_budget(request),
        serving=tuple(SERVING_OF[item] for item in request.serving),
    )


def deadline_seconds(request: rec.RecommendRequest) -> float | None:
    """Longest time of a run."""
    return request.deadline.ToNanoseconds() / 1e9 if request.HasField("deadline") else None


def run_budget(request: rec.RecommendRequest) -> float | None:
    """Budget of a run in USD: the lower one of that of a run, and that of a month shared among its runs."""
    found = []
    if request.HasField("budget_usd_run"):
        found.append(request.budget_usd_run)
    if request.HasField("budget_usd_month"):
        found.append(request.budget_usd_month / max(1, request.runs_per_month))
    return min(found, default=None)


def month_budget(request: rec.RecommendRequest) -> float | None:
    """Budget of a month in USD: the one given, else that of a run times the runs of a month."""
    if request.HasField("budget_usd_month"):
        return request.budget_usd_month
    if request.HasField("budget_usd_run") and request.runs_per_month:
        return request.budget_usd_run * request.runs_per_month
    return None
