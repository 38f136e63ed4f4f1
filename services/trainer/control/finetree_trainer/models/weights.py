# SPDX-License-Identifier: Apache-2.0
"""Trained weights that requests name: artifacts and checkpoints of jobs, and adapters under a model root.

Located means that they are there, of a kind that can be used and not cut off; the worker that loads them compares every
file with its hash.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from finetree_api.trainer.v1 import artifact_pb2, job_pb2
from finetree_api.types.v1 import method_pb2, model_pb2, run_spec_pb2, weights_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.weights import checkpoint
from finetree_data.weights.adapter import AdapterFolder, content_hash, read_adapter
from finetree_data.weights.errors import WeightsError
from finetree_data.weights.fingerprint import fingerprint
from finetree_data.weights.fit import misfit
from finetree_runtime.errors import DomainError, FailedPrecondition, InvalidArgument, NotFound, invalid_field
from finetree_runtime.ids import ResourceName, parse_child

from finetree_trainer.joblog.log import job_not_found
from finetree_trainer.layout import Layout
from finetree_trainer.models.locate import BaseModel, Models
from finetree_trainer.objects.copies import Copies
from finetree_trainer.paths import inside
from finetree_trainer.store import artifacts, jobs
from finetree_trainer.store.database import Store

_KINDS = {artifact_pb2.ARTIFACT_KIND_ADAPTER: "an adapter", artifact_pb2.ARTIFACT_KIND_MODEL: "a whole model"}
"""Kinds of artifacts that are trained weights."""


@dataclass(frozen=True, slots=True)
class LocatedWeights:
    """Trained weights on this machine.

    `name` is the resource name of the artifact or checkpoint, or the path that was asked for; `sha256` (hex) is that of
    their manifest, or of the two files of an adapter that others trained. `spec` is the resolved run that made them;
    None for a folder, and for an artifact of a job that did not train.
    """

    name: str
    folder: Path
    kind: artifact_pb2.ArtifactKind.ValueType
    base: artifact_pb2.ArtifactBase
    sha256: str
    spec: run_spec_pb2.RunSpec | None = None
    checkpoint: bool = False
    adapter: AdapterFolder | None = None
    """Configuration and tensors of an adapter; None for a whole model and a checkpoint."""

    made_here: bool = True
    """Whether a job of this service made them."""

    @property
    def job(self) -> str:
        """Resource name of the job that made them; empty where others did."""
        return self.name.partition("/artifacts/")[0].partition("/checkpoints/")[0] if self.made_here else ""

    def message(self, name: str) -> worker_pb2.TaskWeights:
        """Return them as a worker's task has them; `name` is what the task calls them."""
        return worker_pb2.TaskWeights(
            name=name,
            folder=str(self.folder),
            checkpoint=self.checkpoint,
            spec=self.spec,
            kind=self.kind,
            base=self.base,
            sha256=self.sha256,
            source=self.name,
        )


class WeightsLocator:
    """Locates trained weights. `field_path` is where a request names them, for errors."""

    def __init__(self, store: Store, layout: Layout, models: Models, copies: Copies) -> None:
        self._store, self._layout, self._models, self._copies = store, layout, models, copies

    async def locate(self, project: str, source: weights_pb2.TrainedWeights, field_path: str) -> LocatedWeights:
        """Locate weights that a caller of a project names.

        Raises InvalidArgument (INVALID_NAME, WEIGHTS_UNREADABLE, MODEL_PICKLED), NotFound (JOB_NOT_FOUND,
        ARTIFACT_NOT_FOUND, CHECKPOINT_NOT_FOUND, WEIGHTS_NOT_FOUND), PermissionDenied PATH_OUTSIDE_ROOTS,
        FailedPrecondition WEIGHTS_CHANGED where the source states another hash than they have, OBJECT_DAMAGED;
        Unavailable OBJECT_STORE_UNAVAILABLE.
        """
        kind = source.WhichOneof("source")
        place = f"{field_path}.{kind}"
        match kind:
            case "artifact":
                found = await self._artifact(project, source.artifact, place)
            case "checkpoint":
                found = await self._checkpoint(project, source.checkpoint, place)
            case "path":
                found = await asyncio.to_thread(self._path, source.path, place)
            case _:
                raise invalid_field(field_path, "is needed: name an artifact, a checkpoint or a path")
        if source.sha256 not in ("", found.sha256):
            text = f"{source.sha256[:12]}… was asked for, and {found.name} has {found.sha256[:12]}… now"
            violations = [(f"{field_path}.sha256", text, "WEIGHTS_CHANGED")]
            raise FailedPrecondition("WEIGHTS_CHANGED", f"{field_path}.sha256: {text}.", violations=violations)
        return found

    async def require_base_of(
        self, weights: LocatedWeights, source: model_pb2.ModelSource, base: artifact_pb2.ArtifactBase, field_path: str
    ) -> None:
        """Raise InvalidArgument WRONG_BASE unless weights belong to the model that a job has loaded, as `require_base`.

        `source` and `base` are the job's; what is raised for a model that is gone is raised too.
        """
        model = await asyncio.to_thread(self._models.relocate, source, base)
        await asyncio.to_thread(require_base, weights, model, field_path)

    async def _artifact(self, project: str, name: str, place: str) -> LocatedWeights:
        job, artifact = parse_child(name, "jobs", "artifacts", field_path=place, project=project)
        record = await self._job(job, project)
        content = await self._store.read(lambda connection: artifacts.load(connection, job.id, artifact))
        if content is None:
            text = f"{place}: job {job.id} has no artifact {artifact!r}; list its artifacts to see those that it has."
            raise NotFound("ARTIFACT_NOT_FOUND", text)
        described = artifact_pb2.Artifact.FromString(content)
        full_name = job.child("artifacts", artifact)
        if described.kind not in _KINDS:
            raise _unusable(
                place, full_name, WeightsError("holds no weights", remedy="Name an adapter or a whole model.")
            )
        folder = self._layout.artifacts(job.id, described.attempt) / artifact
        await self._copies.ensure(folder)
        try:
            adapter = await asyncio.to_thread(_whole_artifact, folder, described)
        except WeightsError as error:
            raise _unusable(place, full_name, error) from error
        return LocatedWeights(
            name=full_name,
            folder=folder,
            kind=described.kind,
            base=described.base,
            sha256=described.sha256,
            spec=record.train.spec if record.WhichOneof("task") == "train" else None,
            adapter=adapter,
        )

    async def _checkpoint(self, project: str, name: str, place: str) -> LocatedWeights:
        job, number = parse_child(name, "jobs", "checkpoints", field_path=place, project=project)
        if not number.isdecimal() or len(number) > 9:
            wanted = 'must end in a step, such as "projects/{project}/jobs/{job}/checkpoints/100"'
            raise invalid_field(place, wanted, "INVALID_NAME")
        record = await self._job(job, project)
        folder, step = self._layout.checkpoints(job.id), int(number)
        full_name = job.child("checkpoints", step)
        await self._copies.ensure(folder / checkpoint.folder_name(step))
        if not (folder / checkpoint.folder_name(step)).is_dir():
            there = ", ".join(map(str, whole_steps(folder))) or "none"
            text = f"{place}: job {job.id} has no checkpoint of step {step}; those on disk are of steps: {there}."
            raise NotFound("CHECKPOINT_NOT_FOUND", text, metadata={"steps": there})
        spec = record.train.spec
        trained = spec.WhichOneof("method")
        try:
            _require_all_layers(spec)
            found = await asyncio.to_thread(checkpoint.read_checkpoint, folder / checkpoint.folder_name(step))
        except WeightsError as error:
            raise _unusable(place, full_name, error) from error
        base = artifact_pb2.ArtifactBase()
        base.CopyFrom(record.base)
        base.fingerprint = await asyncio.to_thread(self._fingerprint, record)
        return LocatedWeights(
            name=full_name,
            folder=found.folder,
            kind=artifact_pb2.ARTIFACT_KIND_MODEL if trained == "full" else artifact_pb2.ARTIFACT_KIND_ADAPTER,
            base=base,
            sha256=found.sha256,
            spec=spec,
            checkpoint=True,
        )

    def _path(self, path: str, place: str) -> LocatedWeights:
        folder = inside(self._models.roots, path, field_path=place, reason="WEIGHTS_NOT_FOUND")
        try:
            adapter = read_adapter(folder)
            for file in (folder / "adapter_config.json", adapter.weights):
                # A link of the folder may lead to a file that nobody put under a root.
                inside(self._models.roots, str(file.resolve()), field_path=place, reason="WEIGHTS_NOT_FOUND")
            sha256 = content_hash(adapter)
        except WeightsError as error:
            raise _unusable(place, path[:80], error) from error
        return LocatedWeights(
            name=path,
            folder=folder,
            kind=artifact_pb2.ARTIFACT_KIND_ADAPTER,
            base=adapter.base,
            sha256=sha256,
            adapter=adapter,
            made_here=False,
        )

    async def _job(self, name: ResourceName, project: str) -> job_pb2.Job:
        row = await self._store.read(lambda connection: jobs.load(connection, name.id))
        if row is None or row.project != name.project or name.project != project:
            raise job_not_found(name.id)
        return job_pb2.Job.FromString(row.record)

    def _fingerprint(self, record: job_pb2.Job) -> str:
        """Fingerprint of a job's base; empty where the base is no longer here."""
        try:
            return base_fingerprint(self._models.relocate(record.train.spec.model, record.base))
        except DomainError:
            return ""


def whole_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints of a job that can be used, in ascending order."""
    return [step for step in checkpoint.steps(folder) if _is_whole(folder / checkpoint.folder_name(step))]


def base_fingerprint(model: BaseModel) -> str:
    """Fingerprint of a base model; empty where its files cannot be read, which whoever loads it reports."""
    try:
        return fingerprint(model.folder)
    except (OSError, ValueError, WeightsError):
        return ""


def require_base(weights: LocatedWeights, model: BaseModel, field_path: str) -> None:
    """Raise InvalidArgument WRONG_BASE unless the weights belong to a base model, as far as both are known.

    Fingerprints tell models of different dimensions apart, the hub ids and commits those of equal ones.
    """
    problem = _other_base(weights.base, model) or (misfit(weights.adapter, model.folder) if weights.adapter else "")
    if problem:
        text = f"{weights.name} belongs to another base model: {problem}"
        raise invalid_field(field_path, f"{text}. Name the base that it was trained on.", "WRONG_BASE")


def require_loadable(weights: LocatedWeights, quantization: method_pb2.Quantization.ValueType, field_path: str) -> None:
    """Raise InvalidArgument WEIGHTS_MISMATCH for a checkpoint of whole weights on a base that is loaded quantized.

    The weights of a whole model that is an artifact are quantized as the base's; a checkpoint's are copied one by one
    into the base, which the worker refuses in the same words.
    """
    if quantization and weights.checkpoint and weights.kind == artifact_pb2.ARTIFACT_KIND_MODEL:
        text = (
            f"{weights.name} is a checkpoint of full fine-tuning, which cannot be copied into a quantized base. Load "
            "the base without quantization, or name the job's artifact in place of its checkpoint."
        )
        raise invalid_field(field_path, text, "WEIGHTS_MISMATCH")


def _other_base(base: artifact_pb2.ArtifactBase, model: BaseModel) -> str:
    if base.hub_id and model.hub_id and base.hub_id.lower() != model.hub_id.lower():
        return f"it was trained on {base.hub_id}, and the model is {model.hub_id}"
    if base.hub_id and base.revision and model.revision and base.revision != model.revision:
        return f"it was trained on commit {base.revision[:12]} of {base.hub_id}, and the model is {model.revision[:12]}"
    own = base_fingerprint(model) if base.fingerprint else ""
    if own and base.fingerprint != own:
        return f"it was trained on {base.hub_id or 'a model'} with another fingerprint"
    return ""


def _require_all_layers(spec: run_spec_pb2.RunSpec) -> None:
    """Raise WeightsError for a run whose checkpoints lack layers that are neither trained nor the base model's."""
    if spec.full.frozen_layers and spec.HasField("init_from"):
        text = "lacks the frozen layers, which are those of the weights that its job went on from"
        raise WeightsError(text, remedy="Name the job's artifact.")


def _is_whole(folder: Path) -> bool:
    try:
        checkpoint.read_checkpoint(folder)
    except WeightsError:
        return False
    return True


def _whole_artifact(folder: Path, described: artifact_pb2.Artifact) -> AdapterFolder | None:
    """Check that an artifact's files are there, and read an adapter's. Raises WeightsError."""
    missing = [file.path for file in described.files if not _has_size(folder / file.path, file.size_bytes)]
    if missing:
        text = f"lacks {_list(missing)} on disk, or has it cut off"
        raise WeightsError(text, remedy="Train again, or restore the trainer's data from a backup.")
    return read_adapter(folder) if described.kind == artifact_pb2.ARTIFACT_KIND_ADAPTER else None


def _has_size(file: Path, size: int) -> bool:
    try:
        return file.stat().st_size == size
    except OSError:
        return False


def _unusable(place: str, name: str, error: WeightsError) -> InvalidArgument:
    return invalid_field(place, f"{name} {error.problem}. {error.remedy}", error.reason)


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:3])
