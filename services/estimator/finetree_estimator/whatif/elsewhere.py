# SPDX-License-Identifier: Apache-2.0
"""The run of a request on other accelerators than the one that it names."""

from dataclasses import replace

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import run_spec_pb2 as rs

from finetree_estimator.catalog.accelerators import AcceleratorEntry
from finetree_estimator.evidence.calibration import Calibration, correction_for
from finetree_estimator.evidence.corrections import Correction
from finetree_estimator.run import Run
from finetree_estimator.spec.parse import Reading, read
from finetree_estimator.spec.resolve import Knowledge, read_device


def moved(request: pb.EstimateRunRequest, reading: Reading, knowledge: Knowledge, entry: AcceleratorEntry) -> Run:
    """The run on as many accelerators of another kind, without terms of payment.

    Of a run on a CPU settings that were left open mean something else there. Raises DomainError where the settings that
    it gives do not go with that accelerator.
    """
    if reading.run.device.is_cpu:
        return replace(_read_on(request, reading, knowledge, entry), payment=None)
    device = read_device(entry.name, fp32=reading.chosen.fp32)
    return replace(reading.run, device=device, payment=None)


def correction_on(
    request: pb.EstimateRunRequest, reading: Reading, calibration: Calibration, entry: AcceleratorEntry
) -> Correction:
    """What observed runs correct in an estimate of the run on another accelerator."""
    spec = rs.RunSpec(model=reading.spec.model, hardware=rs.Hardware(accelerator=entry.name))
    return correction_for(request, spec, calibration)


def _read_on(request: pb.EstimateRunRequest, reading: Reading, knowledge: Knowledge, entry: AcceleratorEntry) -> Run:
    """The spec as it was given, on this accelerator in place of the CPU."""
    changed = rs.RunSpec()
    changed.CopyFrom(reading.given)
    changed.ClearField("ownership")
    changed.hardware.CopyFrom(rs.Hardware(accelerator=entry.name))
    return read(request, knowledge, changed=changed).run
