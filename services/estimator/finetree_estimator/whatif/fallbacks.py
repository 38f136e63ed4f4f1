# SPDX-License-Identifier: Apache-2.0
"""A run, and what to change where it does not fit: the first of them that does."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_api.types.v1 import run_spec_pb2 as rs
from finetree_runtime.errors import InvalidArgument
from finetree_runtime.runspec.naming import Split
from finetree_runtime.server.validation import validate

from finetree_estimator import estimate as engine
from finetree_estimator.evidence.calibration import EMPTY, Calibration, correction_for
from finetree_estimator.evidence.corrections import Correction
from finetree_estimator.memory.fit import Verdict
from finetree_estimator.run import Run
from finetree_estimator.spec.parse import Reading, read
from finetree_estimator.spec.resolve import Knowledge

_PREFERRED = (Verdict.FITS, Verdict.TIGHT, Verdict.UNSPECIFIED)


class Chosen(NamedTuple):
    """The request that is answered, understood, and how many of the fallbacks it has taken over."""

    request: pb.EstimateRunRequest
    reading: Reading
    correction: Correction
    fitted: engine.Fitted | None
    """Its peak, where that was computed to choose it."""
    taken: int

    @property
    def told(self) -> bool:
        """Whether what is for people is asked for: a summary has numbers alone."""
        return self.request.view != pb.ESTIMATE_VIEW_SUMMARY


def choose(
    request: pb.EstimateRunRequest,
    knowledge: Knowledge,
    calibration: Calibration = EMPTY,
    spec: Split | None = None,
) -> Chosen:
    """The run that is answered: the request's own, or the first fallback that fits.

    Of runs that are tried only the peak is computed. `spec` is the request's in two, where it is at hand. Raises what
    `read` raises, for the run and for each fallback that is tried.
    """
    reading = read(request, knowledge, spec=spec)
    correction = correction_for(request, reading.given, calibration)
    if not request.fallbacks:
        return Chosen(request, reading, correction, None, 0)
    verdict, found = _fit(reading.run, correction)
    tried = {verdict: (reading, correction, found, 0)}
    if verdict is not Verdict.FITS:
        for taken, changed in enumerate(_changed(request), start=1):
            reading = read(request, knowledge, changed=changed)
            correction = correction_for(request, changed, calibration)
            verdict, found = _fit(reading.run, correction)
            # Of runs that do not fit the last is the smallest; of others the least changed one is wanted.
            if verdict is Verdict.DOES_NOT_FIT or verdict not in tried:
                tried[verdict] = reading, correction, found, taken
            if verdict is Verdict.FITS:
                break
    best = next((verdict for verdict in _PREFERRED if verdict in tried), Verdict.DOES_NOT_FIT)
    reading, correction, found, taken = tried[best]
    chosen = _with_spec(request, reading.given) if taken else request
    return Chosen(chosen, reading, correction, found, taken)


def _fit(run: Run, correction: Correction) -> tuple[Verdict, engine.Fitted | None]:
    """Whether a run fits, and what was computed to tell: nothing where its weights alone are too much."""
    if engine.exceeds(run):
        return Verdict.DOES_NOT_FIT, None
    found = engine.fit_of(run, correction)
    return found[1].verdict, found


def _changed(request: pb.EstimateRunRequest) -> Iterator[rs.RunSpec]:
    """The request's spec with its first fallback, with its first two, and so on."""
    last = request.spec
    for number, fallback in enumerate(request.fallbacks):
        changed = rs.RunSpec()
        changed.CopyFrom(last)
        changed.MergeFrom(fallback)
        if not _sound(_touched(changed, fallback)):
            validate(_with_spec(request, changed), path=f"fallbacks[{number}]")
        yield changed
        last = changed


def _with_spec(request: pb.EstimateRunRequest, spec: rs.RunSpec) -> pb.EstimateRunRequest:
    """The request with another spec, and no fallbacks any more."""
    changed = pb.EstimateRunRequest()
    changed.CopyFrom(request)
    changed.ClearField("fallbacks")
    changed.spec.CopyFrom(spec)
    return changed


def _touched(changed: rs.RunSpec, fallback: rs.RunSpec) -> bytes:
    """What of a spec a fallback was merged into, as a spec of its own.

    Each rule of the contract is about a single field, so that the rest, which keeps them, needs no second look. A spec
    must have a model; any will do.
    """
    probe = rs.RunSpec(model=_ANY_MODEL)
    for field, _ in fallback.ListFields():
        value = getattr(changed, field.name)
        if field.message_type is None:
            setattr(probe, field.name, value)
        else:
            getattr(probe, field.name).CopyFrom(value)
    return probe.SerializeToString()


_ANY_MODEL = rs.ModelSource(name="any")


@lru_cache(maxsize=1024)
def _sound(spec: bytes) -> bool:
    """Whether a spec keeps the contract's rules: the same few changes are tried in request after request."""
    try:
        validate(rs.RunSpec.FromString(spec))
    except InvalidArgument:
        return False
    return True
