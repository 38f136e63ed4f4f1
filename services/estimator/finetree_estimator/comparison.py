# SPDX-License-Identifier: Apache-2.0
"""Messages of what stands beside the computed numbers: the playbook's figures, measured runs, confidence."""

from finetree_api.estimator.v1 import estimator_pb2 as pb

from finetree_estimator import evidence, playbook
from finetree_estimator.confidence import Confidence, Level
from finetree_estimator.engine import Estimate
from finetree_estimator.evidence import Near
from finetree_estimator.playbook import Compared, FigureKind
from finetree_estimator.reading import Reading
from finetree_estimator.writing import interval_message, provenance_message

_KINDS = {kind: pb.PlaybookFigureKind.Value(f"PLAYBOOK_FIGURE_KIND_{kind.name}") for kind in FigureKind}
_LEVELS = {level: pb.ConfidenceLevel.Value(f"CONFIDENCE_LEVEL_{level.name}") for level in Level}


def add(message: pb.Estimate, request: pb.EstimateRunRequest, reading: Reading, estimate: Estimate) -> None:
    """Put them into an answer; the measured runs only where the FULL view is asked for."""
    message.confidence.CopyFrom(confidence_message(estimate.confidence))
    examples = reading.profile.examples if reading.profile is not None else 0
    figures = playbook.compare(reading.run, estimate, examples=examples, runs_per_month=request.runs_per_month)
    message.playbook.extend(map(playbook_message, figures))
    if request.view == pb.ESTIMATE_VIEW_FULL:
        near = evidence.nearest_evidence(evidence.case_of(reading.run))
        message.nearest_evidence.extend(map(evidence_message, near))


def playbook_message(compared: Compared) -> pb.PlaybookFigure:
    """A figure of the playbook beside the computed one."""
    figure = compared.figure
    return pb.PlaybookFigure(
        kind=_KINDS[figure.kind],
        value=figure.value,
        interpolated=figure.interpolated,
        extrapolated=figure.extrapolated,
        stated_for=figure.stated_for,
        computed=interval_message(compared.computed) if compared.computed is not None else None,
        note=compared.note,
        provenance=provenance_message(figure.source),
    )


def evidence_message(near: Near) -> pb.EvidenceRow:
    """A measured run and how far it is."""
    return pb.EvidenceRow(
        description=near.row.description,
        peak_bytes=near.row.peak_bytes,
        tokens_per_second=near.row.tokens_per_second,
        distance=near.distance,
        provenance=provenance_message(near.row.source),
    )


def confidence_message(found: Confidence) -> pb.Confidence:
    """Levels, distances and reasons."""
    return pb.Confidence(
        memory=_LEVELS[found.memory],
        time=_LEVELS[found.time],
        memory_distance=found.memory_distance,
        time_distance=found.time_distance,
        reasons=found.reasons,
    )
