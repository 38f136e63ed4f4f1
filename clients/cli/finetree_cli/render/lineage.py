# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a job, and the tree of what it was made of, as text."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from finetree_api.trainer.v1 import artifact_pb2, checkpoint_pb2, job_pb2
from finetree_api.types.v1 import training_data_pb2

from finetree_cli.jobfile.yaml_scalars import setting_word
from finetree_cli.output import Output, as_dict, short_name
from finetree_cli.render import units

_SHORT_HASH = 12
"""Digits of a hash that people compare; --json has all of them."""
_INDENT = "   "


def show_checkpoints(out: Output, checkpoints: Iterable[checkpoint_pb2.Checkpoint]) -> None:
    """Print checkpoints as a table."""
    rows = [
        (
            str(each.step),
            _number(each, "loss"),
            _number(each, "eval_loss"),
            _number(each, "exact_match"),
            units.size(each.size_bytes),
            units.instant(each.create_time),
            " ".join(_remarks(each)),
        )
        for each in checkpoints
    ]
    if not rows:
        out.text("no checkpoint")
        return
    out.table([">Step", ">Loss", ">Held out", ">Exact", ">Size", "Saved", ""], rows)


def _remarks(checkpoint: checkpoint_pb2.Checkpoint) -> Iterator[str]:
    if checkpoint.best:
        yield "best"
    if checkpoint.pinned:
        yield "pinned"
    if checkpoint.HasField("expire_time"):
        yield f"until {units.instant(checkpoint.expire_time)}"
    if not checkpoint.available:
        yield "deleted"


def _number(checkpoint: checkpoint_pb2.Checkpoint, name: str) -> str:
    return f"{getattr(checkpoint, name):.4f}" if checkpoint.HasField(name) else "-"  # type: ignore[arg-type]  # of the table


def tree_document(job: job_pb2.Job, older: Mapping[str, job_pb2.Job]) -> dict[str, Any]:
    """Describe a job and what it goes back to; weights that others trained, and jobs that are gone, have no parents."""
    parents = []
    for parent in job.lineage.parents:
        made_by = older.get(parent.job)
        parents.append(as_dict(parent) | ({"made_by": tree_document(made_by, older)} if made_by is not None else {}))
    return {
        "job": job.name,
        "display_name": job.display_name,
        "task": job.WhichOneof("task") or "",
        "create_time": job.create_time.ToJsonString(),
        "spec": as_dict(job.train.spec) if job.WhichOneof("task") == "train" else {},
        "lineage": as_dict(job.lineage),
        "parents": parents,
    }


def show_lineage(out: Output, job: job_pb2.Job, older: Mapping[str, job_pb2.Job]) -> None:
    """Print a job's lineage as a tree, the newest job first."""
    for line in _lines(job, older):
        out.text(line)


def _lines(job: job_pb2.Job, older: Mapping[str, job_pb2.Job], indent: str = "") -> Iterator[str]:
    name = f"  {job.display_name}" if job.display_name else ""
    yield f"{indent}job {short_name(job.name)}{name}  {_done(job)}  {units.instant(job.create_time)}"
    made = job.lineage
    if not made.ByteSize():
        yield f"{indent}{_INDENT}nothing is known: an earlier release created it"
    for name, value in (*_facts(made), *_settings(job)):
        yield f"{indent}{_INDENT}{name:<9} {value}"
    for parent in made.parents:
        yield f"{indent}{_INDENT}from      {_short(parent)}  {_hash(parent.sha256)}"
        made_by = older.get(parent.job)
        if made_by is not None:
            yield from _lines(made_by, older, indent + 2 * _INDENT)
        elif parent.job:
            yield f"{indent}{2 * _INDENT}job {short_name(parent.job)} is no longer there"


def _facts(made: artifact_pb2.Lineage) -> Iterator[tuple[str, str]]:
    """What a job was made of but for its weights, each with its name."""
    for dataset in made.datasets:
        split = "data" if dataset.split == training_data_pb2.SPLIT_TRAIN else "held out"
        yield split, f"{dataset.name}  {_hash(dataset.sha256)}"
    if made.HasField("base"):
        yield "base", _base(made.base)
    if made.plan_digest:
        yield "plan", _hash(made.plan_digest.removeprefix("sha256:"))
    if made.versions:
        yield "programs", ", ".join(f"{name} {version}" for name, version in sorted(made.versions.items()))


def _settings(job: job_pb2.Job) -> Iterator[tuple[str, str]]:
    """How a job trained: the settings of its method and of its training; --json has the whole spec."""
    if job.WhichOneof("task") != "train":
        return
    spec = as_dict(job.train.spec)
    method = job.train.spec.WhichOneof("method") or ""
    shown = [*_flat(method, spec.get(method, {})), *_flat("training", spec.get("training", {}))]
    if shown:
        yield "spec", ", ".join(shown)


def _flat(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{path}.{name}", inner)
    elif isinstance(value, list):
        yield f"{path}={','.join(map(str, value))}"
    else:
        yield f"{path}={setting_word(path, value) or (str(value).lower() if isinstance(value, bool) else value)}"


def _done(job: job_pb2.Job) -> str:
    task = job.WhichOneof("task") or "-"
    return (job.train.spec.WhichOneof("method") or task) if task == "train" else task


def _base(base: artifact_pb2.ArtifactBase) -> str:
    commit = f"@{base.revision[:_SHORT_HASH]}" if base.revision else ""
    print_ = f"  fingerprint {base.fingerprint[:_SHORT_HASH]}" if base.fingerprint else ""
    return f"{base.hub_id or 'a model folder'}{commit}{print_}"


def _short(parent: artifact_pb2.LineageParent) -> str:
    return f"{short_name(parent.job)}{parent.name.removeprefix(parent.job)}" if parent.job else parent.name


def _hash(sha256: str) -> str:
    return f"sha256:{sha256[:_SHORT_HASH]}" if sha256 else "not hashed yet"
