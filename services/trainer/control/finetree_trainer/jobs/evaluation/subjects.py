# SPDX-License-Identifier: Apache-2.0
"""The subjects of an evaluation: what they are called, which base they share, in which formats it is loaded."""

from collections.abc import Sequence
from pathlib import Path

from finetree_api.trainer.v1 import artifact_pb2, evaluation_pb2, job_pb2
from finetree_api.types.v1 import method_pb2, model_pb2, training_pb2
from finetree_runtime.errors import invalid_field
from finetree_runtime.ids import parse_child

from finetree_trainer.jobs import capabilities
from finetree_trainer.models import locate
from finetree_trainer.models.weights import LocatedWeights, require_loadable
from finetree_trainer.store import jobs
from finetree_trainer.store.database import Store

PLACE = "job.evaluate"
"""Field path of an evaluation in a request."""
BASE = "base"
"""What reports call the base model: no subject can be called so, nor begin so and a space."""
MOST_OF_NAME = 50
"""Longest name of a job in a label: one of 64 characters also has the step of a checkpoint."""


async def describe(store: Store, task: evaluation_pb2.EvaluateTask, subjects: Sequence[LocatedWeights]) -> None:
    """Write full names, hashes, methods and labels of the subjects; refuse those that are named twice."""
    seen: dict[Path, int] = {}
    for i, (subject, found) in enumerate(zip(task.subjects, subjects, strict=True)):
        if found.folder in seen:
            text = f"names {found.name} again, as subjects[{seen[found.folder]}] does; name each once"
            raise invalid_field(f"{PLACE}.subjects[{i}].weights", text, "SUBJECT_REPEATED")
        seen[found.folder] = i
        kind = subject.weights.WhichOneof("source")
        if kind != "path":
            # An id alone belongs to the caller's project: the full name means the same to everybody.
            setattr(subject.weights, kind or "", found.name)
        subject.weights.sha256 = found.sha256
        subject.method = found.spec.WhichOneof("method") or "" if found.spec is not None else ""
        subject.trained_on_rows = False
    given = [subject.label for subject in task.subjects]
    names = [await _usual_label(store, found) for found in subjects]
    for i, subject in enumerate(task.subjects):
        label = subject.label or (names[i] if names.count(names[i]) == 1 and names[i] not in given else "")
        subject.label = label or f"{names[i][:56]} ({i + 1})"
    for i, subject in enumerate(task.subjects):
        if subject.label == BASE or subject.label.startswith(f"{BASE} "):
            text = f'"{subject.label}" is what the base model is called; give another label'
            raise invalid_field(f"{PLACE}.subjects[{i}].label", text)
        if subject.label in [other.label for other in task.subjects[:i]]:
            text = f'"{subject.label}" is the label of another subject; give each its own'
            raise invalid_field(f"{PLACE}.subjects[{i}].label", text, "SUBJECT_REPEATED")


async def _usual_label(store: Store, found: LocatedWeights) -> str:
    """Return the display name of the job that made weights, with the step of a checkpoint; else their own name."""
    if found.spec is None:
        return found.name.rpartition("/")[2][:60] or found.name[:60]
    name, last = parse_child(found.name, "jobs", "checkpoints" if found.checkpoint else "artifacts")
    row = await store.read(lambda connection: jobs.load(connection, name.id))
    shown = job_pb2.Job.FromString(row.record).display_name if row is not None else ""
    short = shortened(shown if shown and not shown.startswith(BASE) else name.id)
    return f"{short} step {last}" if found.checkpoint else short


def shortened(name: str) -> str:
    """Cut a name so that a step fits behind it within the 64 characters of a label, and mark that it was."""
    return name if len(name) <= MOST_OF_NAME else f"{name[: MOST_OF_NAME - 1].rstrip()}…"


def base_source(subjects: Sequence[LocatedWeights]) -> model_pb2.ModelSource:
    """Return where the base of weights is: as their job names it, else as they do.

    Raises InvalidArgument BASE_UNKNOWN where neither says so.
    """
    for found in subjects:
        if found.spec is None:
            continue
        source = model_pb2.ModelSource()
        source.CopyFrom(found.spec.model)
        if source.WhichOneof("source") == "path" or locate.is_known(source.name):
            return source
        if found.base.hub_id:
            # The commit that it was trained on, wherever the branch is now.
            return model_pb2.ModelSource(hub=model_pb2.HubModel(id=found.base.hub_id, revision=found.base.revision))
        return source
    for found in subjects:
        if found.base.hub_id:
            return model_pb2.ModelSource(hub=model_pb2.HubModel(id=found.base.hub_id, revision=found.base.revision))
    text = f"is needed: nothing says which base {subjects[0].name[:80]} belongs to"
    raise invalid_field(f"{PLACE}.model", text, "BASE_UNKNOWN")


def fill_formats(
    task: evaluation_pb2.EvaluateTask,
    subjects: Sequence[LocatedWeights],
    *,
    fastest: training_pb2.Precision.ValueType,
) -> None:
    """Fill in the number formats of the base: those of the subjects' runs where they agree, else the device's fastest.

    Raises InvalidArgument: SETTING_NOT_SUPPORTED for formats that this server does not load, WEIGHTS_MISMATCH for a
    subject that cannot be put on a base in them.
    """
    specs = [found.spec for found in subjects]
    known = [spec for spec in specs if spec is not None]
    if not task.precision:
        formats = {spec.precision for spec in known}
        task.precision = (formats.pop() if len(formats) == 1 else fastest) or fastest
    if not task.quantization:
        quantized = {_quantization(found) for found in subjects}
        task.quantization = quantized.pop() if len(quantized) == 1 else method_pb2.QUANTIZATION_UNSPECIFIED
    have = capabilities.CAPABILITIES
    if task.precision not in have.precisions:
        raise invalid_field(f"{PLACE}.precision", "is not supported by this server", "SETTING_NOT_SUPPORTED")
    if task.quantization and task.quantization not in have.quantizations:
        raise invalid_field(f"{PLACE}.quantization", "is not supported by this server", "SETTING_NOT_SUPPORTED")
    for index, found in enumerate(subjects):
        require_loadable(found, task.quantization, f"{PLACE}.subjects[{index}].weights")


def _quantization(found: LocatedWeights) -> method_pb2.Quantization.ValueType:
    spec = found.spec
    quantized = spec is not None and spec.HasField("qlora") and found.kind != artifact_pb2.ARTIFACT_KIND_MODEL
    return spec.qlora.quantization if quantized and spec is not None else method_pb2.QUANTIZATION_UNSPECIFIED
