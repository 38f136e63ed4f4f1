# SPDX-License-Identifier: Apache-2.0
"""One file per method, named like its field in RunSpec: its settings, how it is applied and saved."""

from importlib import import_module, util

from finetree_api.types.v1 import run_spec_pb2

from finetree_worker.errors import PlanError
from finetree_worker.plan import Method
from finetree_worker.spec_values import unresolved


def method_of(spec: run_spec_pb2.RunSpec) -> Method:
    """Read the method of a resolved run. Raises PlanError: METHOD_NOT_SUPPORTED, or that of its settings."""
    name = spec.WhichOneof("method")
    if name is None:
        raise unresolved("method")
    place = f"{__name__}.{name}"
    if util.find_spec(place) is None:
        raise PlanError(
            "METHOD_NOT_SUPPORTED",
            f"This worker cannot train with the method {name}.",
            field=name,
            remedy="Upgrade the worker, or choose another method.",
        )
    method: Method = import_module(place).METHOD.from_spec(spec)
    return method
