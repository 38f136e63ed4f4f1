# SPDX-License-Identifier: Apache-2.0
"""Conversion of a request to a `Run`: fills in defaults, looks up names, refuses contradictions."""

from dataclasses import dataclass

from finetree_api.estimator.v1 import estimate_pb2
from finetree_api.types.v1 import hardware_pb2, run_spec_pb2, training_data_pb2, training_pb2
from finetree_runtime.errors import InvalidArgument, invalid_field
from finetree_runtime.runspec import device_names
from finetree_runtime.runspec.conflicts import combination_problem, sequence_problem
from finetree_runtime.runspec.defaults import Default
from finetree_runtime.runspec.resolve import fill_defaults, optimizer_steps, spec_profile

from finetree_estimator.catalog.devices import Device
from finetree_estimator.catalog.price_book import Owned, Quote
from finetree_estimator.methods.base import Method
from finetree_estimator.run import Run
from finetree_estimator.shapes.config_json.hf_config import Described
from finetree_estimator.spec import settings
from finetree_estimator.spec.method import READERS, read_method
from finetree_estimator.spec.resolve import Knowledge, read_device, read_model, read_payment


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request, its resolved RunSpec, and the run that they describe."""

    request: estimate_pb2.EstimateRunRequest
    """The caller's message; must not be modified."""
    spec: run_spec_pb2.RunSpec
    """A copy of the request's spec with every default filled in."""
    profile: training_data_pb2.DatasetProfile | None
    """Row counts and lengths of the training data; None where unknown."""
    run: Run
    defaults: tuple[Default, ...] = ()
    """Those that the copy was filled in with."""


def parse_request(
    request: estimate_pb2.EstimateRunRequest, knowledge: Knowledge, *, like: ParsedRequest | None = None
) -> ParsedRequest:
    """Resolve a validated request. Raises InvalidArgument and NotFound with the reasons that the rpc documents.

    `like` is a request that differs in its spec alone: what the specs have in common is not looked up again.
    """
    _require(request.spec)
    _check_count(request.spec.hardware)
    profile = request.dataset_profile if request.HasField("dataset_profile") else spec_profile(request.spec)
    if like is not None and like.request.spec.model == request.spec.model:
        model = Described(like.run.shape, like.run.remarks)
    else:
        model = read_model(request.spec.model, knowledge)
    rates = request.matrix_rates if request.HasField("matrix_rates") else None
    spec, defaults = _resolved(request.spec, profile, positions=model.shape.max_positions, rates=rates)
    if like is not None and _agree(spec, like.spec, "model", *READERS):
        method = like.run.method
    else:
        method = read_method(spec, model.shape)
    if like is not None and _agree(spec, like.spec, "hardware", "precision", "ownership"):
        device, payment = like.run.device, like.run.payment
    else:
        device = read_device(spec.hardware, fp32=settings.is_fp32(spec), matrix_rates=rates)
        payment = read_payment(spec, knowledge.prices)
    run = _run(request, spec, profile, model=model, method=method, device=device, payment=payment)
    return ParsedRequest(request=request, spec=spec, profile=profile, run=run, defaults=defaults)


def _resolved(
    given: run_spec_pb2.RunSpec,
    profile: training_data_pb2.DatasetProfile | None,
    *,
    positions: int,
    rates: hardware_pb2.MatrixRates | None,
) -> tuple[run_spec_pb2.RunSpec, tuple[Default, ...]]:
    """Copy a spec with its defaults filled in. Raises InvalidArgument where settings do not go together."""
    spec, defaults = fill_defaults(given, profile=profile, positions=positions, matrix_rates=rates)
    problem = combination_problem(spec) or sequence_problem(spec, positions)
    if problem is not None:
        path = f"spec.{problem.field_path}"
        raise InvalidArgument(problem.reason, f"{path}: {problem.message}", violations=[(path, problem.message)])
    return spec, defaults


def _run(
    request: estimate_pb2.EstimateRunRequest,
    spec: run_spec_pb2.RunSpec,
    profile: training_data_pb2.DatasetProfile | None,
    *,
    model: Described,
    method: Method,
    device: Device,
    payment: Owned | Quote | None,
) -> Run:
    """Build the run as the formulas see it, of a resolved spec and what its names mean."""
    program = settings.training_program(spec)
    rows = settings.training_rows(spec, profile, spec.training.sequence_length)
    steps = optimizer_steps(spec, rows.count) if rows is not None else 0
    sizes = settings.number_sizes(spec, program, trains_base=method.trains_base)
    return Run(
        shape=model.shape,
        method=method,
        program=program,
        device=device,
        devices=settings.device_count(spec),
        nodes=max(1, spec.hardware.nodes),
        network_bandwidth=settings.network_bandwidth(spec.hardware, device),
        network_known=spec.hardware.HasField("network_gbits_per_second"),
        sharding=settings.SHARDINGS[spec.hardware.sharding],
        micro_batch=spec.training.micro_batch_size,
        batch=spec.training.effective_batch_size,
        sequence_length=spec.training.sequence_length,
        packing=spec.training.packing == training_pb2.PACKING_ON,
        rows=rows,
        steps=steps,
        weight_bytes=sizes.weight,
        compute_bytes=sizes.compute,
        master_bytes=sizes.master,
        optimizer=settings.OPTIMIZERS[spec.optimizer],
        optimizer_in_backward=spec.optimizer_in_backward,
        checkpointing=spec.gradient_checkpointing
        in (training_pb2.GRADIENT_CHECKPOINTING_FULL, training_pb2.GRADIENT_CHECKPOINTING_OFFLOADED),
        # A CPU has the inputs of layers in the host's memory as they are.
        offloaded=spec.gradient_checkpointing == training_pb2.GRADIENT_CHECKPOINTING_OFFLOADED and not device.is_cpu,
        eager_attention=settings.attends_eagerly(spec, program, model.shape.family),
        flash_attention=spec.attention == training_pb2.ATTENTION_KERNEL_FLASH,
        loss=settings.LOSSES[spec.loss_kernel],
        evaluation=settings.evaluation_plan(spec.evaluation, settings.held_out_rows(request, spec, profile), steps),
        checkpoints=max(0, steps - 1) // spec.checkpoints.every_steps,
        payment=payment,
        remarks=(
            *model.remarks,
            *settings.attention_remarks(spec, program, model.shape.family),
            *settings.number_format_remarks(spec, request.matrix_rates if request.HasField("matrix_rates") else None),
        ),
        runs_per_month=request.runs_per_month,
        carbon_kg_per_kwh=request.carbon_kg_per_kwh,
    )


def with_spec(request: estimate_pb2.EstimateRunRequest, spec: run_spec_pb2.RunSpec) -> estimate_pb2.EstimateRunRequest:
    """Copy a request with another spec and without fallbacks."""
    changed = estimate_pb2.EstimateRunRequest()
    changed.CopyFrom(request)
    changed.ClearField("fallbacks")
    changed.spec.CopyFrom(spec)
    return changed


def _agree(one: run_spec_pb2.RunSpec, other: run_spec_pb2.RunSpec, *fields: str) -> bool:
    """Whether two specs have the same values in all of these fields."""
    return all(getattr(one, field) == getattr(other, field) for field in fields)


def _check_count(hardware: hardware_pb2.Hardware) -> None:
    """Refuse a name such as "4x RTX 4090" beside another number of devices."""
    count, _ = device_names.counted(hardware.accelerator)
    if count and hardware.HasField("count") and hardware.count != count:
        path = "spec.hardware.count"
        text = f"is {hardware.count}, but the name {hardware.accelerator[:64]!r} says {count}; state one of them"
        raise invalid_field(path, text)


def _require(spec: run_spec_pb2.RunSpec) -> None:
    """Raise InvalidArgument where a setting without a default is missing."""
    if spec.WhichOneof("method") is None:
        raise invalid_field("spec.method", f"set one of {', '.join(READERS)}")
    if spec.hardware.WhichOneof("device") is None:
        raise invalid_field("spec.hardware", "set one of accelerator, cpu, unknown_accelerator")
