# SPDX-License-Identifier: Apache-2.0
"""What a sweep is asked to do, checked and with its defaults filled in."""

from finetree_api.trainer.v1 import sweep_pb2
from finetree_api.types.v1 import run_spec_pb2
from finetree_runtime.errors import invalid_field

from finetree_trainer.jobs.sweeps import halving, objective, search, settings

DEFAULT_PARALLEL = 2
"""Trials at the same time of a sweep that states none: one runs, one waits for the device."""
_METHODS = frozenset(field.name for field in run_spec_pb2.RunSpec.DESCRIPTOR.oneofs_by_name["method"].fields)


def filled(asked: sweep_pb2.SweepTemplate) -> sweep_pb2.SweepTemplate:
    """Check a sweep and fill in its defaults, those of its job left out.

    Raises InvalidArgument INVALID_REQUEST, SWEEP_NEEDS_EVALUATIONS.
    """
    sweep = sweep_pb2.SweepTemplate()
    sweep.CopyFrom(asked)
    _check_job(sweep)
    _check_parameters(sweep)
    sweep.metric = objective.metric_of(sweep)
    sweep.search = search.search_of(sweep)
    for name, value in (("seed", 0), ("max_parallel", DEFAULT_PARALLEL)):
        if not sweep.HasField(name):  # type: ignore[arg-type]  # names of the tuple above
            setattr(sweep, name, value)
    if sweep.HasField("halving"):
        if not sweep.halving.HasField("reduction_factor"):
            sweep.halving.reduction_factor = halving.DEFAULT_FACTOR
        if not sweep.halving.HasField("min_steps"):
            sweep.halving.min_steps = sweep.job.train.spec.evaluation.every_steps
    return sweep


def _check_job(sweep: sweep_pb2.SweepTemplate) -> None:
    if sweep.job.WhichOneof("task") != "train":
        raise invalid_field("sweep.job.train", "is needed: a sweep trains")
    if sweep.job.train.HasField("approved_plan"):
        raise invalid_field("sweep.job.train.approved_plan", "cannot hold for trials that differ; leave it out")
    if sweep.job.suspended:
        raise invalid_field("sweep.job.suspended", "cannot be set: nothing would ever run")


def _check_parameters(sweep: sweep_pb2.SweepTemplate) -> None:
    method = sweep.job.train.spec.WhichOneof("method")
    seen: set[str] = set()
    for place, parameter in enumerate(sweep.parameters):
        path, field_path = parameter.field_path, f"sweep.parameters[{place}].field_path"
        settings.field_of(path, field_path)
        if path in seen:
            raise invalid_field(field_path, f"{path} is given twice")
        seen.add(path)
        first = path.partition(".")[0]
        if first in _METHODS and method and first != method:
            # Set on another method it would silently replace the job's.
            text = f"the job trains with {method}, so {first} has no settings; name a setting of {method}"
            raise invalid_field(field_path, text)
