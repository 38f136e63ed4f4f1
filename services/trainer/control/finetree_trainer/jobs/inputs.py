# SPDX-License-Identifier: Apache-2.0
"""The inputs of a job: its base model and its datasets, located, read as the job says, and profiled."""

import asyncio
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from finetree_api.trainer.v1 import dataset_pb2
from finetree_api.types.v1 import model_pb2, training_data_pb2
from finetree_data.contract import findings_of, reading_of, to_reading
from finetree_data.findings.finding import Finding, settled
from finetree_data.options import Reading
from finetree_runtime.errors import InvalidArgument, NotFound, Violation, invalid_field
from finetree_runtime.ids import ResourceName, parse_name
from finetree_runtime.runspec import model_names

from finetree_trainer import paths
from finetree_trainer.datasets import validate
from finetree_trainer.datasets.datasets import Datasets
from finetree_trainer.datasets.validate import ValidatedFile
from finetree_trainer.estimator import EstimateUnavailableError, Estimator
from finetree_trainer.layout import Layout
from finetree_trainer.models import locate
from finetree_trainer.models.locate import BaseModel
from finetree_trainer.store.datasets import DatasetRow


@dataclass(frozen=True, slots=True)
class PlannedDataset:
    """A dataset of a job: its file, the profile of its rows and what was found in them.

    `name` is its resource name, or the path that was asked for. `uid` and `sha256` are "" for a path.
    """

    file: Path
    profile: training_data_pb2.DatasetProfile
    findings: tuple[Finding, ...] = ()
    uid: str = ""
    name: str = ""
    sha256: str = ""


class Inputs:
    """Locates the inputs of jobs. `field_path` is where a request names the input, for errors."""

    def __init__(
        self,
        models: locate.Models,
        datasets: Datasets,
        *,
        layout: Layout,
        data_roots: tuple[str, ...],
        estimator: Estimator,
    ) -> None:
        self._models, self._datasets, self._layout = models, datasets, layout
        self._data_roots, self._estimator = data_roots, estimator
        self._validated: dict[tuple[Path, int, int, Reading], ValidatedFile] = {}

    async def model(self, source: model_pb2.ModelSource, field_path: str) -> BaseModel:
        """Locate a base model; a name that is not known here is looked up in the estimator's catalog.

        Raises InvalidArgument, NotFound MODEL_NOT_FOUND, PermissionDenied PATH_OUTSIDE_ROOTS.
        """
        if source.WhichOneof("source") != "name":
            return await asyncio.to_thread(self._models.locate, source, field_path)
        name = model_names.meant((known.name for known in locate.KNOWN), source.name)
        if locate.is_known(name):
            return await asyncio.to_thread(self._models.locate, model_pb2.ModelSource(name=name), field_path)
        try:
            catalog = await self._estimator.catalog()
        except EstimateUnavailableError as error:
            text = f"{field_path}.name: the catalog is not available now ({error}); name the model by hub.id"
            raise NotFound("MODEL_NOT_FOUND", text) from error
        listed = model_names.by_name(((known,), hub_id) for known, hub_id in catalog.items())
        hub_id = model_names.find(listed, source.name)
        if not hub_id:
            raise locate.no_such_name(source.name, catalog, field_path)
        found = model_pb2.ModelSource(hub=model_pb2.HubModel(id=hub_id))
        return await asyncio.to_thread(self._models.locate, found, field_path)

    async def dataset(
        self, project: str, source: training_data_pb2.DatasetSource, field_path: str
    ) -> PlannedDataset | None:
        """Locate a dataset and set in `source` how it is read; None when no dataset is named.

        Raises the errors of a dataset that CreateJob documents.
        """
        match source.WhichOneof("source"):
            case "name":
                name = parse_name(source.name, "datasets", field_path=f"{field_path}.name", project=project)
                row = await self._datasets.of_project(name, project)
                planned = await self._uploaded(row, source, field_path)
                full_name = str(ResourceName(project, "datasets", row.uid))
                return replace(planned, name=full_name, sha256=row.sha256)
            case "path":
                place = f"{field_path}.path"
                file = paths.inside(self._data_roots, source.path, field_path=place, reason="DATASET_NOT_FOUND")
                reading = reading_of(source)
                valid = await self._validate(file, reading, field_path)
                return replace(_planned(file, valid, reading), name=source.path)
            case "profile":
                text = "a profile has no rows; name a dataset or a path"
                raise invalid_field(f"{field_path}.profile", text)
            case _:
                return None

    async def _uploaded(
        self, row: DatasetRow, source: training_data_pb2.DatasetSource, field_path: str
    ) -> PlannedDataset:
        """Plan an uploaded dataset, read as the job says, else as its creator said, which `source` then gets."""
        record = dataset_pb2.Dataset.FromString(row.record)
        file, own = await self._datasets.contents.file(row.sha256), record.reading
        stated = source.HasField("reading")
        if _says_nothing_of_rows(source.reading) and own.ByteSize():
            accepted = training_data_pb2.DatasetReading(
                accepted_findings=source.reading.accepted_findings, ignored_columns=source.reading.ignored_columns
            )
            source.reading.CopyFrom(own)
            # Both are lists of names: what the dataset's creator accepted stays accepted.
            source.reading.accepted_findings.extend(set(accepted.accepted_findings) - set(own.accepted_findings))
            source.reading.ignored_columns.extend(set(accepted.ignored_columns) - set(own.ignored_columns))
        elif stated and source.reading.file_format == training_data_pb2.FILE_FORMAT_UNSPECIFIED:
            source.reading.file_format = own.file_format
        reading = to_reading(source.reading, name=record.display_name[:100])
        if _rows_of(source.reading) == _rows_of(own):
            found = settled(findings_of(record.findings), reading)
            return PlannedDataset(file, record.profile, found, row.uid)
        return _planned(file, await self._validate(file, reading, field_path), reading, uid=row.uid)

    async def _validate(self, file: Path, reading: Reading, field_path: str) -> ValidatedFile:
        status = await asyncio.to_thread(file.stat)
        key = file, status.st_mtime_ns, status.st_size, replace(reading, accepted_findings=())
        if key not in self._validated:
            if not stat.S_ISREG(status.st_mode):
                raise invalid_field(f"{field_path}.path", "is a folder; name a file of rows")
            self._validated.clear()
            try:
                self._validated[key] = await asyncio.to_thread(validate.validate_file, file, reading)
            except InvalidArgument as error:
                raise _below(error, field_path) from None
        return self._validated[key]


def require_accepted(data: PlannedDataset | None, field_path: str) -> None:
    """Raise InvalidArgument with the findings' reasons unless a job may train on the rows."""
    stopping = [found for found in data.findings if found.stops] if data is not None else []
    if not stopping:
        return
    place = f"{field_path}.reading"
    violations = [Violation(place, found.message, found.code) for found in stopping]
    raise InvalidArgument(stopping[0].code, f"{place}: {stopping[0].message}", violations=violations)


def _planned(file: Path, valid: ValidatedFile, reading: Reading, *, uid: str = "") -> PlannedDataset:
    return PlannedDataset(file, valid.profile, settled(valid.findings, reading), uid)


def _rows_of(reading: training_data_pb2.DatasetReading) -> training_data_pb2.DatasetReading:
    """Return what a reading says of how rows are read: all but what it accepts.

    An ignored column may be a verdict, without which more rows are read.
    """
    kept = training_data_pb2.DatasetReading()
    kept.CopyFrom(reading)
    del kept.accepted_findings[:]
    kept.ignored_columns.sort()
    return kept


def _says_nothing_of_rows(reading: training_data_pb2.DatasetReading) -> bool:
    kept = _rows_of(reading)
    del kept.ignored_columns[:]
    return not kept.ByteSize()


def _below(error: InvalidArgument, field_path: str) -> InvalidArgument:
    """Put the field paths of a file's error below the setting that names the file."""
    violations = [Violation(f"{field_path}.{v.field_path}", v.description, v.reason) for v in error.violations]
    return InvalidArgument(error.reason, str(error), metadata=error.metadata, violations=violations)
