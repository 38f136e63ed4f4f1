# SPDX-License-Identifier: Apache-2.0
"""The lineage of a job when it is created: rows, base, weights and plan, each by the hash of its content."""

from collections.abc import Iterable

from finetree_api.trainer.v1 import artifact_pb2, job_pb2
from finetree_runtime.server.identity import distribution_version

from finetree_trainer.models.locate import BaseModel
from finetree_trainer.models.weights import LocatedWeights, base_fingerprint
from finetree_trainer.settings import NAME


def lineage(
    job: job_pb2.Job,
    model: BaseModel | None,
    *,
    datasets: Iterable[artifact_pb2.LineageDataset],
    weights: Iterable[LocatedWeights],
) -> artifact_pb2.Lineage:
    """Build the lineage of a job's record, whose base and plan are set. Reads the headers of the base model's files.

    The hash of a file that is named by path is left to its worker, which reads the whole file.
    """
    made = artifact_pb2.Lineage(
        parents=map(parent, weights),
        datasets=datasets,
        versions={NAME: distribution_version(NAME)},  # its worker adds those of what it trains with
        plan_digest=job.plan_digest,
    )
    if model is not None:
        made.base.CopyFrom(job.base)
        if model.prepared and job.WhichOneof("task") != "prepare":
            made.base.fingerprint = base_fingerprint(model)
    return made


def parent(weights: LocatedWeights) -> artifact_pb2.LineageParent:
    """Describe weights that a job starts from or works with."""
    return artifact_pb2.LineageParent(name=weights.name, sha256=weights.sha256, job=weights.job)
