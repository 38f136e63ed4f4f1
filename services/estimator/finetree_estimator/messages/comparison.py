# SPDX-License-Identifier: Apache-2.0
"""Messages of what stands beside the computed numbers: the playbook's figures, measured runs, confidence."""

import struct
from collections.abc import Generator
from functools import cache, lru_cache

from finetree_api.estimator.v1 import estimator_pb2 as pb
from finetree_runtime.runspec.wire import delimited, key

from finetree_estimator.catalog.playbook import FigureKind, Stated
from finetree_estimator.estimate import Estimate
from finetree_estimator.evidence import measured_runs
from finetree_estimator.evidence.confidence import Confidence, Level
from finetree_estimator.evidence.measured_runs import Near
from finetree_estimator.messages.encoding import Place, provenance_message
from finetree_estimator.spec.parse import Reading
from finetree_estimator.whatif.playbook_comparison import Compared, compare

_KINDS = {kind: pb.PlaybookFigureKind.Value(f"PLAYBOOK_FIGURE_KIND_{kind.name}") for kind in FigureKind}
_CONFIDENCE, _PLAYBOOK = key(pb.Estimate, "confidence"), key(pb.Estimate, "playbook")
_DOUBLE = struct.Struct("<d")
_VALUE = pb.PlaybookFigure(value=1.0).SerializeToString()[: -_DOUBLE.size]
_INTERPOLATED = pb.PlaybookFigure(interpolated=True).SerializeToString()
_EXTRAPOLATED = pb.PlaybookFigure(extrapolated=True).SerializeToString()
_REASONS = key(pb.Confidence, "reasons")
_COMPUTED, _NOTE = Place(key(pb.PlaybookFigure, "computed")), key(pb.PlaybookFigure, "note")
_LEVELS = {level: pb.ConfidenceLevel.Value(f"CONFIDENCE_LEVEL_{level.name}") for level in Level}


def fields(request: pb.EstimateRunRequest, reading: Reading, estimate: Estimate) -> Generator[None, None, bytes]:
    """Confidence and the playbook's figures, as fields of an Estimate, in steps."""
    examples = reading.profile.examples if reading.profile is not None else 0
    figures = compare(reading.run, estimate, examples=examples, runs_per_month=request.runs_per_month)
    yield
    found = [delimited(_PLAYBOOK, _playbook(figure)) for figure in figures]
    return _confidence(estimate.confidence) + b"".join(found)


def _confidence(found: Confidence) -> bytes:
    if not found.written:
        levels = pb.Confidence(
            memory=_LEVELS[found.memory],
            time=_LEVELS[found.time],
            memory_distance=found.memory_distance,
            time_distance=found.time_distance,
        )
        body = b"".join((levels.SerializeToString(), *map(_reason, found.reasons)))
        found.written.append(delimited(_CONFIDENCE, body))
    return found.written[0]


@lru_cache(maxsize=4096)
def _reason(text: str) -> bytes:
    """The field of a reason, most of which are those of many runs."""
    return delimited(_REASONS, text.encode())


def nearest(reading: Reading) -> list[pb.EvidenceRow]:
    """The measured runs that are nearest."""
    return list(map(evidence_message, measured_runs.nearest_evidence(measured_runs.case_of(reading.run))))


def _playbook(compared: Compared) -> bytes:
    """A figure of the playbook beside the computed one, as the body of a message."""
    (stated, value, interpolated, extrapolated), computed, note = compared
    body = _VALUE + _DOUBLE.pack(value) + _words(stated)
    if interpolated:
        body += _INTERPOLATED
    if extrapolated:
        body += _EXTRAPOLATED
    if computed is not None:
        body += _COMPUTED.bytes_of(computed)
    return body + delimited(_NOTE, note.encode()) if note else body


@cache
def _words(stated: Stated) -> bytes:
    """What a figure says of itself, whatever its value."""
    return pb.PlaybookFigure(
        kind=_KINDS[stated.kind], stated_for=stated.stated_for, provenance=provenance_message(stated.source)
    ).SerializeToString()


def evidence_message(near: Near) -> pb.EvidenceRow:
    """A measured run and how far it is."""
    return pb.EvidenceRow(
        description=near.row.description,
        peak_bytes=near.row.peak_bytes,
        tokens_per_second=near.row.tokens_per_second,
        distance=near.distance,
        provenance=provenance_message(near.row.source),
    )
