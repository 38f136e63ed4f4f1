# SPDX-License-Identifier: Apache-2.0
"""Which servers serve a result: the request as facts, and the reply."""

from finetree_api.recommender.v1 import serving_pb2
from finetree_api.types.v1 import model_pb2
from finetree_runtime.errors import InvalidArgument, Violation
from finetree_runtime.runspec import model_names
from finetree_runtime.serving.check import Asked, check, rules_date
from finetree_runtime.serving.facts import DEFAULT_RANK, Facts, Form, facts_of_spec, short_names

from finetree_recommender.estimator.values import Catalog


def check_serving(request: serving_pb2.CheckServingRequest, catalog: Catalog) -> serving_pb2.CheckServingResponse:
    """Answer CheckServing with what the catalog knows of the model; an empty one knows nothing.

    Raises:
        InvalidArgument: INVALID_REQUEST where the spec has no method.
    """
    asked = [Asked(item.server, item.version) for item in request.servers]
    checks = check(_facts(request, catalog), asked)
    return serving_pb2.CheckServingResponse(checks=checks, rules_date=rules_date())


def needs_catalog(request: serving_pb2.CheckServingRequest) -> bool:
    """Whether the catalog can tell something that the request does not: the family and the hub id of a named model."""
    return request.WhichOneof("subject") == "spec" and request.spec.model.WhichOneof("source") in ("name", "hub")


def _facts(request: serving_pb2.CheckServingRequest, catalog: Catalog) -> Facts:
    if request.WhichOneof("subject") == "result":
        return _of_result(request.result)
    model = request.spec.model
    known = model_names.find(catalog.models, model.hub.id or model.name) if needs_catalog(request) else None
    base = model.hub.id or next((name for name in (known.names if known else ()) if "/" in name), _own_name(model))
    found = facts_of_spec(request.spec, family=known.family if known is not None else "", base=base)
    if found is None:
        text = "must have a method: what is served depends on it"
        raise InvalidArgument("INVALID_REQUEST", f"spec: {text}", violations=[Violation("spec", text)])
    return found


def _own_name(model: model_pb2.ModelSource) -> str:
    """A name with an organization is a hub id."""
    return model.name if "/" in model.name else ""


def _of_result(result: serving_pb2.ServedResult) -> Facts:
    rank = result.rank if result.HasField("rank") else DEFAULT_RANK
    form = Form(serving_pb2.ServedForm.Name(result.form).removeprefix("SERVED_FORM_"))
    usual = Facts(form, family=result.family)
    return Facts(
        form,
        rank=rank,
        alpha=result.alpha if result.HasField("alpha") else 2.0 * rank,
        targets=short_names(result.target_modules) or usual.targets,
        saved=short_names(result.modules_to_save),
        dora=result.use_dora,
        rslora=result.use_rslora,
        experts=result.adapts_experts,
        bias=result.trains_bias,
        family=result.family,
    )
