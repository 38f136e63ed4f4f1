# SPDX-License-Identifier: Apache-2.0
"""Requests of the recommender and the estimator, built from what a caller writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from finetree_api.estimator.v1 import calibration_pb2, catalog_pb2, check_plan_pb2, estimate_pb2, estimator_pb2
from finetree_api.recommender.v1 import method_card_pb2, picture_pb2, recommendation_pb2, rule_pack_pb2
from finetree_api.recommender.v1 import serving_pb2 as recommender_serving_pb2
from finetree_api.types.v1 import (
    check_pb2,
    evidence_pb2,
    hardware_pb2,
    method_pb2,
    run_spec_pb2,
    serving_pb2,
    training_data_pb2,
)
from google.type import money_pb2

from finetree._shared import rpcs
from finetree._shared.channels import new_request_id
from finetree._shared.listing import Listing
from finetree._shared.status import error_of_status
from finetree.errors import FinetreeError, InvalidArgument, InvalidSpec, Violation
from finetree.money import parse_money
from finetree.spec import coerce

SpecLike = run_spec_pb2.RunSpec | Mapping[str, Any]
ProfileLike = training_data_pb2.DatasetProfile | Mapping[str, Any]
RatesLike = hardware_pb2.MatrixRates | Mapping[str, Any]
RevisionLike = evidence_pb2.Revision | Mapping[str, Any]
ServedLike = recommender_serving_pb2.CheckServingRequest | recommender_serving_pb2.ServedResult | SpecLike
RecommendLike = recommendation_pb2.RecommendRequest | Mapping[str, Any]
EstimateLike = estimate_pb2.EstimateRunRequest | SpecLike
BatchLike = estimator_pb2.BatchEstimateRunsRequest | Mapping[str, EstimateLike]
PolicyLike = check_plan_pb2.PlanPolicy | Mapping[str, Any]
OverrideLike = check_pb2.Override | Mapping[str, Any]
ObservationLike = calibration_pb2.Observation | Mapping[str, Any]
View = Literal["BASIC", "FULL", "SUMMARY"]
NAMED = (
    check_plan_pb2.POLICY_METRIC_METHOD,
    check_plan_pb2.POLICY_METRIC_MODEL,
    check_plan_pb2.POLICY_METRIC_MODEL_LICENSE,
    check_plan_pb2.POLICY_METRIC_PROVIDER,
)
"""Metrics of names, not of numbers."""
MethodName = Literal["full", "lora", "qlora", "prefix", "adapter"]
PictureFormat = Literal["text", "mermaid", "svg"]


def enum_number(enum: Any, value: str | int, field: str) -> Any:
    """Number of an enum value that is given by number, full name or short name in any letter case.

    Raises:
        InvalidArgument: there is no such value.
    """
    if isinstance(value, int):
        return value
    values = enum.DESCRIPTOR.values_by_name
    prefix = enum.DESCRIPTOR.values_by_number[0].name.removesuffix("UNSPECIFIED")
    name = value.upper()
    found = values.get(name) or values.get(prefix + name)
    if found is not None:
        return found.number
    known = ", ".join(name.removeprefix(prefix).lower() for name, each in values.items() if each.number)
    raise invalid(field, f"no such value {value!r}; known are {known}")


def enum_word(enum: Any, number: int) -> str:
    """Short name of an enum value in lower case, such as "running"; of one newer than this client "unknown(9)"."""
    known = enum.DESCRIPTOR.values_by_number.get(number)
    prefix = enum.DESCRIPTOR.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return known.name.removeprefix(prefix).lower() if known is not None else f"unknown({number})"


def invalid(field: str, text: str) -> InvalidArgument:
    """Make the error about one argument."""
    return InvalidArgument(f"{field}: {text}", reason="INVALID_REQUEST", violations=(Violation(field, text),))


def unknown_service(service: object) -> InvalidArgument:
    """Make the error for a service that does not exist."""
    return invalid("service", f"no such service {service!r}; known are recommender, estimator, trainer")


def recommend(request: RecommendLike) -> recommendation_pb2.RecommendRequest:
    """Build the request of Recommend."""
    return coerce(recommendation_pb2.RecommendRequest, request)


def render_decision_tree(
    request: RecommendLike | None, rule_pack: str, picture_format: PictureFormat | str | int
) -> picture_pb2.RenderDecisionTreeRequest:
    """Build the request of RenderDecisionTree."""
    number = enum_number(picture_pb2.PictureFormat, picture_format, "format")
    marked = recommend(request) if request is not None else None
    return picture_pb2.RenderDecisionTreeRequest(rule_pack=rule_pack, format=number, request=marked)


def get_method(method: MethodName | str | int, rule_pack: str) -> method_card_pb2.GetMethodRequest:
    """Build the request of GetMethod."""
    number = enum_number(method_pb2.Method, method, "method")
    return method_card_pb2.GetMethodRequest(method=number, rule_pack=rule_pack)


def get_rule_pack(rule_pack: str, pinned: evidence_pb2.RevisionComponent | None) -> rule_pack_pb2.GetRulePackRequest:
    """Build the request of GetRulePack."""
    return rule_pack_pb2.GetRulePackRequest(rule_pack=rule_pack, pinned=pinned)


def list_rule_packs(page_size: int) -> Listing[rule_pack_pb2.RulePack]:
    """Build the list call of ListRulePacks."""
    request = rule_pack_pb2.ListRulePacksRequest(page_size=page_size)
    return Listing(rpcs.LIST_RULE_PACKS, request, lambda page: page.rule_packs)


def check_serving(
    what: ServedLike, servers: Mapping[str, str] | Sequence[str]
) -> recommender_serving_pb2.CheckServingRequest:
    """Build the request of CheckServing; a whole one stays as it is."""
    if isinstance(what, recommender_serving_pb2.CheckServingRequest):
        return what
    versions = servers if isinstance(servers, Mapping) else dict.fromkeys(servers, "")
    asked = [
        recommender_serving_pb2.ServerVersion(
            server=enum_number(serving_pb2.ServingTarget, name.replace(".", "_"), f"servers[{number}]"), version=version
        )
        for number, (name, version) in enumerate(versions.items())
    ]
    if isinstance(what, recommender_serving_pb2.ServedResult):
        return recommender_serving_pb2.CheckServingRequest(result=what, servers=asked)
    return recommender_serving_pb2.CheckServingRequest(spec=coerce(run_spec_pb2.RunSpec, what), servers=asked)


def estimate(
    spec: EstimateLike,
    *,
    dataset_profile: ProfileLike | None = None,
    evaluation_profile: ProfileLike | None = None,
    matrix_rates: RatesLike | None = None,
    view: View = "BASIC",
    pinned: RevisionLike | None = None,
) -> estimate_pb2.EstimateRunRequest:
    """Build the request of EstimateRun; a whole one stays as it is."""
    if isinstance(spec, estimate_pb2.EstimateRunRequest):
        return spec
    return estimate_pb2.EstimateRunRequest(
        spec=coerce(run_spec_pb2.RunSpec, spec),
        dataset_profile=_optional(training_data_pb2.DatasetProfile, dataset_profile, "dataset_profile"),
        evaluation_profile=_optional(training_data_pb2.DatasetProfile, evaluation_profile, "evaluation_profile"),
        matrix_rates=_optional(hardware_pb2.MatrixRates, matrix_rates, "matrix_rates"),
        view=enum_number(estimate_pb2.EstimateView, view, "view"),
        pinned=_optional(evidence_pb2.Revision, pinned, "pinned"),
    )


def batch_estimate(rows: BatchLike) -> estimator_pb2.BatchEstimateRunsRequest:
    """Build the request of BatchEstimateRuns; a whole one stays as it is."""
    if isinstance(rows, estimator_pb2.BatchEstimateRunsRequest):
        return rows
    return estimator_pb2.BatchEstimateRunsRequest(
        rows=[estimator_pb2.BatchEstimateRow(key=key, request=estimate(each)) for key, each in rows.items()]
    )


def batch_results(
    response: estimator_pb2.BatchEstimateRunsResponse,
) -> dict[str, estimate_pb2.Estimate | FinetreeError]:
    """Results of a batch by key: an estimate, or the exception that the row alone would have raised."""
    return {
        row.key: error_of_status(row.error) if row.WhichOneof("result") == "error" else row.estimate
        for row in response.results
    }


def check_plan(
    run: estimate_pb2.EstimateRunRequest,
    policy: PolicyLike,
    *,
    overrides: Sequence[OverrideLike] = (),
    evaluation_date: str = "",
    base_run: EstimateLike | None = None,
) -> check_plan_pb2.CheckPlanRequest:
    """Build the request of CheckPlan."""
    return check_plan_pb2.CheckPlanRequest(
        run=run,
        policy=plan_policy(policy),
        overrides=[coerce(check_pb2.Override, each, prefix=f"overrides[{n}]") for n, each in enumerate(overrides)],
        evaluation_date=evaluation_date,
        base_run=estimate(base_run) if base_run is not None else None,
    )


def plan_policy(policy: PolicyLike) -> check_plan_pb2.PlanPolicy:
    """Make a PlanPolicy from its proto JSON, or from bounds by metric.

    {"cost": "50 USD", "fit": True, "method": ["lora", "qlora"], "model": {"denied": ["org/*"]}}: a list is what is
    allowed.
    """
    if not isinstance(policy, Mapping) or "limits" in policy:
        return coerce(check_plan_pb2.PlanPolicy, policy, prefix="policy")
    return check_plan_pb2.PlanPolicy(limits=[_limit(metric, bound) for metric, bound in policy.items()])


def _limit(metric: str, bound: Any) -> check_plan_pb2.PolicyLimit:
    path = f"policy.{metric}"
    number = enum_number(check_plan_pb2.PolicyMetric, metric, path)
    limit = check_plan_pb2.PolicyLimit(metric=number)
    if number == check_plan_pb2.POLICY_METRIC_FIT:
        if bound is not True:
            raise _wrong_bound(path, "true", bound)
    elif number == check_plan_pb2.POLICY_METRIC_CONFIDENCE:
        limit.min_confidence = enum_number(evidence_pb2.ConfidenceLevel, bound, path)
    elif number in (check_plan_pb2.POLICY_METRIC_COST, check_plan_pb2.POLICY_METRIC_MONTHLY_COST):
        limit.max_money.CopyFrom(_money(bound, path))
    elif number in NAMED:
        if isinstance(bound, str) or not isinstance(bound, Sequence | Mapping):
            raise _wrong_bound(path, "a list of allowed names, or {allowed: […], denied: […]}", bound)
        lists = bound if isinstance(bound, Mapping) else {"allowed": list(bound)}
        limit.names.CopyFrom(coerce(check_plan_pb2.NameLimit, lists, prefix=path))
    elif isinstance(bound, int | float) and not isinstance(bound, bool):
        limit.max = bound
    else:
        raise _wrong_bound(path, "a number", bound)
    return limit


def _money(value: Any, path: str) -> money_pb2.Money:
    if isinstance(value, str):
        try:
            return parse_money(value)
        except ValueError as error:
            raise InvalidSpec(f"{path}: {error}", path=path, violations=(Violation(path, str(error)),)) from error
    if isinstance(value, int | float):
        raise _wrong_bound(path, "an amount with a currency, such as '50 USD'", value)
    money: money_pb2.Money = coerce(money_pb2.Money, value, prefix=path)
    return money


def _wrong_bound(path: str, expected: str, bound: Any) -> InvalidSpec:
    text = f"expected {expected}, got {bound!r}"
    return InvalidSpec(f"{path}: {text}", path=path, violations=(Violation(path, text),))


def list_models(prefix: str, page_size: int) -> Listing[catalog_pb2.Model]:
    """Build the list call of ListModels."""
    request = catalog_pb2.ListModelsRequest(prefix=prefix, page_size=page_size)
    return Listing(rpcs.LIST_MODELS, request, lambda page: page.models)


def list_accelerators(prefix: str, page_size: int) -> Listing[catalog_pb2.Accelerator]:
    """Build the list call of ListAccelerators."""
    request = catalog_pb2.ListAcceleratorsRequest(prefix=prefix, page_size=page_size)
    return Listing(rpcs.LIST_ACCELERATORS, request, lambda page: page.accelerators)


def list_prices(accelerator: str, *, provider: str, term: str | int, page_size: int) -> Listing[catalog_pb2.Price]:
    """Build the list call of ListPrices."""
    number = enum_number(catalog_pb2.PriceTerm, term, "term")
    request = catalog_pb2.ListPricesRequest(
        accelerator=accelerator, provider=provider, term=number, page_size=page_size
    )
    return Listing(rpcs.LIST_PRICES, request, lambda page: page.prices)


def report_observation(observation: ObservationLike, request_id: str) -> calibration_pb2.ReportObservationRequest:
    """Build the request of ReportObservation."""
    return calibration_pb2.ReportObservationRequest(
        observation=coerce(calibration_pb2.Observation, observation, prefix="observation"),
        request_id=request_id or new_request_id(),
    )


def reset_calibration(device: str, request_id: str) -> calibration_pb2.ResetCalibrationRequest:
    """Build the request of ResetCalibration."""
    return calibration_pb2.ResetCalibrationRequest(device=device, request_id=request_id or new_request_id())


def _optional(cls: type[Any], value: Any, prefix: str) -> Any:
    return None if value is None else coerce(cls, value, prefix=prefix)
