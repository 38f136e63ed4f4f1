# SPDX-License-Identifier: Apache-2.0
"""Figures of the pack as intervals: quality, and the playbook's times and prices where there is no estimate."""

import math
from itertools import chain, pairwise

from finetree_api.types.v1 import evidence_pb2

from finetree_recommender.method import Method
from finetree_recommender.rule_pack.answers import UNKNOWN
from finetree_recommender.rule_pack.pack import Pack
from finetree_recommender.rule_pack.schema.limits import QualityFloor, QualityPrior

SECONDS = 3600
"""Seconds of an hour."""
BYTES_OF_GB = 1e9
"""Bytes of a marketed GB."""


def quality(pack: Pack, method: Method, task_domain: str = UNKNOWN, data: str = UNKNOWN) -> evidence_pb2.Interval:
    """Quality in percent of full fine-tuning, for this task domain and size of data where the pack distinguishes them.

    Neither the playbook nor the published comparisons state a coverage, so it is 0.
    """
    prior = prior_of(pack, method, task_domain, data)
    figure = prior if prior is not None else pack.card(method).quality_percent
    source = pack.provenance(figure.source)
    return evidence_pb2.Interval(low=figure.low, expected=figure.expected, high=figure.high, provenance=[source])


def prior_of(pack: Pack, method: Method, task_domain: str, data: str = UNKNOWN) -> QualityPrior | None:
    """Prior of a method for this size of data, else for the task domain, else for an unknown one; None without any."""
    ours = [prior for prior in pack.rules.priors if prior.method is method]
    sized = (prior for prior in ours if data in prior.data)
    named = (prior for prior in ours if task_domain in prior.task_domains and not prior.data)
    general = (prior for prior in ours if not prior.task_domains and not prior.data)
    return next(chain(sized, named, general), None)


def falls_short(
    pack: Pack, method: Method, quality_need: str, *, task_domain: str, data: str = UNKNOWN
) -> QualityFloor | None:
    """Floor of a quality need that a method is not expected to reach; None where it is, or without a prior."""
    prior = prior_of(pack, method, task_domain, data)
    floor = next((item for item in pack.rules.quality_floors if item.need == quality_need), None)
    if prior is None or floor is None:
        return None
    reached = prior.low if floor.by == "low" else prior.expected
    return floor if reached < floor.percent else None


def pack_seconds(pack: Pack, method: Method, examples: int | None) -> evidence_pb2.Interval | None:
    """Training time of a 7B model by the playbook; None outside its table."""
    seconds = pack_seconds_expected(pack, method, examples)
    return None if seconds is None else _point(pack, seconds, pack.rules.times.source)


def pack_cost(pack: Pack, method: Method, examples: int | None) -> evidence_pb2.MoneyInterval | None:
    """Cost of training a 7B model on the reference GPU by the playbook; None outside its table."""
    usd = pack_cost_expected(pack, method, examples)
    if usd is None:
        return None
    return evidence_pb2.MoneyInterval(amount=_point(pack, usd, pack.rules.times.price_source), currency_code="USD")


def pack_seconds_expected(pack: Pack, method: Method, examples: int | None) -> float | None:
    """Number of `pack_seconds`, without its source."""
    hours = _hours(pack, method, examples)
    return None if hours is None else hours * SECONDS


def pack_cost_expected(pack: Pack, method: Method, examples: int | None) -> float | None:
    """Number of `pack_cost`, without its source."""
    hours = _hours(pack, method, examples)
    return None if hours is None else hours * pack.rules.times.usd_per_hour[method]


def pack_bytes(pack: Pack, method: Method) -> evidence_pb2.Interval:
    """Memory class that the playbook asks for, in bytes; not a peak of memory."""
    minimum = pack.card(method).minimum_gpu_gb
    return _point(pack, minimum.value * BYTES_OF_GB, minimum.source)


def _hours(pack: Pack, method: Method, examples: int | None) -> float | None:
    """Interpolate between the table's points in log-log, since times grow by powers."""
    times = pack.rules.times
    points = list(zip(times.examples, times.hours[method], strict=True))
    for (x0, y0), (x1, y1) in pairwise(points):
        if examples is not None and x0 <= examples <= x1:
            share = math.log(examples / x0) / math.log(x1 / x0)
            return float(y0 * (y1 / y0) ** share)
    return None


def _point(pack: Pack, value: float, source: str) -> evidence_pb2.Interval:
    return evidence_pb2.Interval(low=value, expected=value, high=value, provenance=[pack.provenance(source)])
