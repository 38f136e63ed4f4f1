# SPDX-License-Identifier: Apache-2.0
"""Sealing of artifacts: the manifest is written last and once, and an artifact without one does not count."""

import hashlib
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path

from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.durable_files import sync_folder
from finetree_data.fail_points import fail_point
from google.protobuf import json_format

from finetree_worker.atomic_files import recorded_hashes
from finetree_worker.errors import StorageError

MANIFEST = "finetree.json"
"""Name of the manifest inside an artifact's folder: the Artifact message as proto JSON."""
_MEDIA_TYPES = {
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".safetensors": "application/vnd.safetensors",
    ".jinja": "text/plain",
    ".txt": "text/plain",
    ".md": "text/markdown",
}


def folder_of(artifact: artifact_pb2.Artifact, task: worker_pb2.Task) -> Path:
    """Return the folder of a task's artifact."""
    return Path(task.folders.artifact_dir) / artifact.name.rpartition("/")[2]


def seal(
    artifact: artifact_pb2.Artifact, task: worker_pb2.Task, lineage: artifact_pb2.Lineage | None = None
) -> artifact_pb2.Artifact:
    """Complete the description of an artifact whose files are written, and write it beside them as the manifest.

    `lineage` is that of the task; its base is the artifact's own, where that is known.

    Raises StorageError: OUTPUT_EXISTS where another attempt has sealed the same folder; OSError of the disk.
    """
    folder = folder_of(artifact, task)
    fail_point("artifact.before_seal")
    files = [_file(folder, name, sha256) for name, sha256 in sorted(recorded_hashes(folder).items())]
    sealed = artifact_pb2.Artifact(
        files=files,
        size_bytes=sum(file.size_bytes for file in files),
        attempt=task.attempt,
        plan_digest=task.plan_digest,
    )
    if lineage is not None:
        sealed.lineage.CopyFrom(lineage)
        sealed.lineage.base.MergeFrom(artifact.base)
    sealed.MergeFrom(artifact)
    sealed.create_time.FromDatetime(datetime.now(UTC))
    manifest = json_format.MessageToJson(sealed, preserving_proto_field_name=True).encode()
    _create(folder / MANIFEST, manifest)
    fail_point("artifact.after_seal")
    sealed.sha256 = hashlib.sha256(manifest).hexdigest()
    return sealed


def _file(folder: Path, name: str, sha256: str) -> artifact_pb2.ArtifactFile:
    path = folder / name
    media_type = _MEDIA_TYPES.get(path.suffix, "application/octet-stream")
    return artifact_pb2.ArtifactFile(path=name, size_bytes=path.stat().st_size, sha256=sha256, media_type=media_type)


def _create(path: Path, content: bytes) -> None:
    """Write a file atomically, and never over another."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with draft.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # A link, unlike a rename, fails where the name is taken.
        os.link(draft, path)
        fail_point("artifact.after_link")
    except FileExistsError as error:
        text = "Another attempt of this job has already written this artifact."
        raise StorageError("OUTPUT_EXISTS", text) from error
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)
