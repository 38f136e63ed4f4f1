# SPDX-License-Identifier: Apache-2.0
"""The run of a request on other accelerators than the one that it names."""

from dataclasses import replace

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import run_spec_pb2 as rs

from finetree_estimator.catalog.accelerators import AcceleratorEntry
from finetree_estimator.evidence.calibration import Calibration, correction_for
from finetree_estimator.evidence.corrections import Correction
from finetree_estimator.run import Run
from finetree_estimator.spec.parse import ParsedRequest, parse_request, with_spec
from finetree_estimator.spec.resolve import Knowledge, read_device
from finetree_estimator.spec.settings import is_fp32


def moved(request: pb.EstimateRunRequest, parsed: ParsedRequest, knowledge: Knowledge, entry: AcceleratorEntry) -> Run:
    """The run on as many accelerators of another kind, without terms of payment.

    Of a run on a CPU settings that were left open mean something else there. Raises DomainError where the settings that
    it gives do not go with that accelerator.
    """
    if parsed.run.device.is_cpu:
        return replace(_read_on(request, parsed, knowledge, entry), payment=None)
    device = read_device(rs.Hardware(accelerator=entry.name), fp32=is_fp32(parsed.spec))
    return replace(parsed.run, device=device, payment=None)


def correction_on(
    request: pb.EstimateRunRequest, parsed: ParsedRequest, calibration: Calibration, entry: AcceleratorEntry
) -> Correction:
    """What observed runs correct in an estimate of the run on another accelerator."""
    spec = rs.RunSpec(model=parsed.spec.model, hardware=rs.Hardware(accelerator=entry.name))
    return correction_for(request, spec, calibration)


def _read_on(
    request: pb.EstimateRunRequest, parsed: ParsedRequest, knowledge: Knowledge, entry: AcceleratorEntry
) -> Run:
    """The spec as it was given, on this accelerator in place of the CPU."""
    changed = rs.RunSpec()
    changed.CopyFrom(parsed.request.spec)
    changed.ClearField("ownership")
    changed.hardware.CopyFrom(rs.Hardware(accelerator=entry.name))
    return parse_request(with_spec(request, changed), knowledge).run
