# SPDX-License-Identifier: Apache-2.0
"""Learns from reported runs: keeps them, and holds the calibration that follows from what is kept."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

from finetree_api.estimator.v1 import calibration_pb2
from finetree_runtime.errors import DomainError

from finetree_estimator.catalog import versions
from finetree_estimator.evidence import observation as observing
from finetree_estimator.evidence import observation_store
from finetree_estimator.evidence.calibration import Calibration, Point, learn
from finetree_estimator.evidence.observation import Predict
from finetree_estimator.evidence.observation_store import Observations, StoredObservation
from finetree_estimator.spec.resolve import Knowledge


class Learner:
    """What a server has learned. `calibration` is the present one; it is replaced, never changed."""

    def __init__(self, folder: Path, knowledge: Knowledge, predict: Predict) -> None:
        """Open the store of a folder. Raises SettingsError where it cannot be used."""
        self._knowledge, self._predict = knowledge, predict
        self._store = Observations(folder)
        self._writing = threading.Lock()
        rows = self._store.rows()
        renewed = {
            row.key: fresh for row in rows if (fresh := _renewed(row, self._knowledge, self._predict)) is not row
        }
        if renewed:
            self._store.replace_points([row for row in renewed.values() if row.point])
        self._points = _points(renewed.get(row.key, row) for row in rows)
        self.calibration = learn(self._points.values())

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    async def report(self, request: calibration_pb2.ReportObservationRequest) -> bool:
        """Take an observation; true when it was new. Durable when it returns.

        Raises InvalidArgument, NotFound, AlreadyExists REQUEST_ID_REUSED, ResourceExhausted DISK_FULL and Unavailable;
        nothing has changed then.
        """
        body = hashlib.sha256(request.observation.SerializeToString(deterministic=True)).hexdigest()
        observation = calibration_pb2.Observation()
        observation.CopyFrom(request.observation)
        if not observation.HasField("end_time"):
            observation.end_time.GetCurrentTime()
        point = observing.to_point(observation, self._knowledge, self._predict)
        row = _row(point, observation.SerializeToString(deterministic=True))
        return await asyncio.to_thread(self._add, row, point, request_id=request.request_id, body=body)

    async def reset(self, device: str, request_id: str = "") -> int:
        """Forget the observations of a device, or all for ""; how many there were. Raises like `report`."""
        return await asyncio.to_thread(self._forget, device, request_id)

    def _add(self, row: StoredObservation, point: Point, *, request_id: str, body: str) -> bool:
        with self._writing:
            new, old = self._store.add(row, request_id, body)
            if new:
                self._points[row.key] = point
                for key in old:
                    self._points.pop(key, None)
                self.calibration = learn(self._points.values())
            return new

    def _forget(self, device: str, request_id: str) -> int:
        body = hashlib.sha256(f"reset {device}".encode()).hexdigest()
        with self._writing:
            removal = self._store.forget(device, request_id, body)
            if removal.repeated:
                return removal.removed
            self._points = {key: point for key, point in self._points.items() if device and point.device != device}
            self.calibration = learn(self._points.values())
            return removal.removed


def load(folder: Path, knowledge: Knowledge, predict: Predict) -> Calibration:
    """What was learned in a folder, without serving from it. Raises SettingsError."""
    return learn(_points(_renewed(row, knowledge, predict) for row in observation_store.read_only(folder)).values())


def _points(rows: Iterable[StoredObservation]) -> dict[tuple[str, int], Point]:
    return {row.key: Point(**json.loads(row.point)) for row in rows if row.point}


def _row(point: Point, record: bytes) -> StoredObservation:
    text = json.dumps(asdict(point), sort_keys=True)
    return StoredObservation(
        job=point.job,
        attempt=point.attempt,
        device=point.device,
        end_time=point.end_time,
        record=record,
        basis=_basis(),
        point=text,
    )


def _basis() -> str:
    """What predictions are computed with: other formulas or another catalog predict otherwise."""
    return " ".join(part.sha256 for part in versions.formulas())


def _renewed(row: StoredObservation, knowledge: Knowledge, predict: Predict) -> StoredObservation:
    """The row with a prediction of the present formulas; without a point where its run can no longer be read."""
    if row.basis == _basis():
        return row
    observation = calibration_pb2.Observation.FromString(row.record)
    try:
        return _row(observing.to_point(observation, knowledge, predict), row.record)
    except DomainError:
        return replace(row, point="")
