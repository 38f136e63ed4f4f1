# SPDX-License-Identifier: Apache-2.0
"""What an answer has for each metric of a policy: a number, or names; and which setting would supply a missing one."""

from finetree_api.types.v1 import model_pb2, training_data_pb2

from finetree_estimator.catalog.models import model as catalog_model
from finetree_estimator.catalog.names import UnknownNameError
from finetree_estimator.catalog.price_book import Owned, Quote
from finetree_estimator.cost import Cost
from finetree_estimator.evidence.token_count import TOKEN_COUNT
from finetree_estimator.intervals import Interval, exact
from finetree_estimator.memory.peak import Component
from finetree_estimator.spec.row_lengths import token_range
from finetree_estimator.whatif.fallbacks import Answer
from finetree_estimator.whatif.policy import COSTS, NAMED, Limit, Metric

NO_ROWS = "unknown without the number of rows; give dataset.profile.examples"
ROWS_ELSEWHERE = "unknown without the number of rows of dataset.{source}; give it beside the run"
NO_TOKENS = "unknown without the tokens of the rows; give dataset.profile.total_tokens"
TOKENS_ELSEWHERE = "unknown without the tokens of the rows of dataset.{source}; give them beside the run"
NO_POWER = "unknown without the power of the devices; give ownership.owned.watts"
NO_PRICE = (
    "unknown without a price of this hardware; give ownership.rented.price_id, or ownership.owned with a price_per_kwh"
)
DOES_NOT_FIT = "no figure: the run does not fit at its expected memory; remedies say what would"
NO_NUMBER = "unknown for this run"
NO_NAME = "unknown for a model that is given by its shape; give model.name or model.hub"
NO_LICENSE = "unknown for a model outside of the catalog; give model.name or model.hub of one in it, or waive the limit"
ONE_RUN = "one run a month is counted: give runs_per_month"
OPEN_LENGTHS = "the lengths of the rows are unknown, and short rows take less: state them first ({path})"
LENGTHS, TOTAL = "dataset.profile.token_lengths", "dataset.profile.total_tokens"
"""RunSpec paths of the rows' lengths: how they are spread, and all of them together."""
_OF_ROWS = frozenset({Component.ACTIVATIONS, Component.TRANSIENT_PEAK, Component.FRAGMENTATION})
"""Parts of the peak that shrink with the rows."""
OF_RUNS = (*COSTS, Metric.DURATION_SECONDS, Metric.ENERGY_KWH, Metric.CARBON_KG)
"""Metrics that only a run that can be made has."""
OWNED = "owned"
"""Provider of owned hardware."""


def predicted(metric: Metric, answer: Answer) -> Interval | None:
    """Number of a metric with an upper bound, in its unit; None where unknown."""
    estimate, profile = answer.estimate, answer.parsed.profile
    match metric:
        case Metric.DEVICE_BYTES:
            return estimate.memory.device
        case Metric.DURATION_SECONDS:
            return estimate.duration.total if estimate.duration is not None else None
        case Metric.EXAMPLES:
            return exact(float(profile.examples)) if profile is not None and profile.examples else None
        case Metric.TOKENS:
            return _tokens(profile)
        case _:
            return _of_cost(metric, estimate.price) if estimate.price is not None else None


def _of_cost(metric: Metric, cost: Cost) -> Interval | None:
    if metric is Metric.MONTHLY_COST:
        # Without runs_per_month the run is counted once.
        return cost.monthly or cost.amount
    return {Metric.COST: cost.amount, Metric.ENERGY_KWH: cost.energy_kwh, Metric.CARBON_KG: cost.carbon_kg}[metric]


def _tokens(profile: training_data_pb2.DatasetProfile | None) -> Interval | None:
    """Tokens of all rows before truncation; of a histogram of lengths, from the shortest to the longest possible."""
    if profile is None or not (profile.total_tokens or profile.token_lengths):
        return None
    if (ends := token_range(profile)) is not None:
        return Interval(float(ends[0]), float(profile.total_tokens), float(ends[1]), sources=(TOKEN_COUNT,))
    if profile.total_tokens:
        return exact(float(profile.total_tokens))
    low = high = rows = 0.0
    shortest = 1
    for bucket in sorted(profile.token_lengths, key=lambda item: item.upper_bound):
        low, high = low + bucket.count * shortest, high + bucket.count * bucket.upper_bound
        rows, shortest = rows + bucket.count, bucket.upper_bound + 1
    if not rows:
        return None
    # Counts that do not add up to the examples are shares.
    each = profile.examples / rows
    return Interval(low * each, (low + high) / 2 * each, high * each, coverage=1.0)


def open_lengths(limit: Limit, answer: Answer) -> tuple[str, str] | None:
    """RunSpec path of the rows' lengths, and what to do, where they are unknown and a limit depends on them.

    None also where a limit of the memory, or the device's, is too low for what does not depend on the rows.
    """
    metric = limit.metric
    rows = answer.parsed.run.rows
    if answer.parsed.spec.dataset.WhichOneof("source") not in (None, "profile"):
        return None  # a dataset or a file is named, and what trains reads their lengths
    if metric in OF_RUNS:
        return (TOTAL, OPEN_LENGTHS.format(path=TOTAL)) if rows is not None and not rows.mean_known else None
    if metric not in (Metric.FIT, Metric.DEVICE_BYTES) or (rows is not None and rows.longest_known):
        return None
    least = sum(part.low for kind, part in answer.estimate.memory.components if kind not in _OF_ROWS)
    most = answer.parsed.run.device.usable_bytes if metric is Metric.FIT else limit.bound
    return (LENGTHS, OPEN_LENGTHS.format(path=LENGTHS)) if most and least < most else None


def names(metric: Metric, answer: Answer) -> tuple[str, ...]:
    """Names that a pattern of the metric applies to, the one that people know first; empty where unknown."""
    spec = answer.parsed.request.spec
    match metric:
        case Metric.METHOD:
            return (spec.WhichOneof("method") or "",)
        case Metric.MODEL:
            return _model_names(spec.model)
        case Metric.MODEL_LICENSE:
            found = _license(spec.model)
            return (found,) if found else ()
        case Metric.PROVIDER:
            payment = answer.parsed.run.payment
            if isinstance(payment, Quote):
                return (payment.provider,)
            return (OWNED,) if isinstance(payment, Owned) else ()
    raise ValueError(f"{metric} has no names")


def _model_names(model: model_pb2.ModelSource) -> tuple[str, ...]:
    """The name in the spec, the catalog's name, and the hub id."""
    given = model.name or model.hub.id or model.path
    found = [given] if given else []
    try:
        entry = catalog_model(model.name or model.hub.id)
        found += [entry.name, entry.hub_id]
    except UnknownNameError:
        pass
    return tuple(dict.fromkeys(found))


def _license(model: model_pb2.ModelSource) -> str:
    """License of a model of the catalog; "" where it is unknown."""
    name = model.name or model.hub.id
    try:
        return catalog_model(name).license if name else ""
    except UnknownNameError:
        return ""


def setting(metric: Metric, answer: Answer) -> str:
    """RunSpec path of the setting that affects a metric most."""
    spec = answer.parsed.request.spec
    match metric:
        case Metric.METHOD:
            return spec.WhichOneof("method") or ""
        case Metric.MODEL | Metric.MODEL_LICENSE | Metric.CONFIDENCE:
            return "model"
        case Metric.EXAMPLES | Metric.TOKENS:
            return "dataset"
        case Metric.DURATION_SECONDS:
            return "training"
        case Metric.COST | Metric.MONTHLY_COST | Metric.PROVIDER:
            return "ownership" if spec.HasField("ownership") else "hardware"
        case _:
            return "hardware"


def missing(metric: Metric, answer: Answer) -> tuple[str, str]:
    """RunSpec path of the setting whose value is missing for a metric, and an explanation that names it."""
    run = answer.parsed.run
    if metric in OF_RUNS and not answer.estimate.fits:
        return "hardware", DOES_NOT_FIT
    rows_missing = run.rows is None or run.steps == 0
    if metric is Metric.TOKENS or (rows_missing and metric not in NAMED):
        return _missing_data(metric, answer.parsed.request.spec.dataset.WhichOneof("source"))
    if metric in (Metric.MODEL, Metric.MODEL_LICENSE):
        return "model", NO_NAME if metric is Metric.MODEL else NO_LICENSE
    if run.payment is None and metric in (*COSTS, Metric.PROVIDER):
        return "ownership", NO_PRICE
    if answer.estimate.times is None:
        return "hardware", NO_NUMBER
    return "ownership.owned.watts", NO_POWER


def _missing_data(metric: Metric, source: str | None) -> tuple[str, str]:
    """Setting and explanation for an unknown size of the data; a file or a dataset excludes a profile in the spec."""
    here = source in (None, "profile")
    if metric is Metric.TOKENS:
        return "dataset.profile.total_tokens", NO_TOKENS if here else TOKENS_ELSEWHERE.format(source=source)
    return "dataset.profile.examples", NO_ROWS if here else ROWS_ELSEWHERE.format(source=source)
