# SPDX-License-Identifier: Apache-2.0
"""What a run leaves behind, described and sealed: the manifest is written last and once, so it is the commit."""

import hashlib
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path

from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.worker.v1 import worker_pb2
from google.protobuf import json_format

from finetree_worker.errors import StorageError
from finetree_worker.events.types import ArtifactReady

MANIFEST = "finetree.json"
"""Name of the manifest inside an artifact's folder: the Artifact message as proto JSON."""
_MEDIA_TYPES = {
    ".json": "application/json",
    ".safetensors": "application/vnd.safetensors",
    ".jinja": "text/plain",
    ".txt": "text/plain",
    ".md": "text/markdown",
}
_KINDS = {
    "adapter": artifact_pb2.ARTIFACT_KIND_ADAPTER,
    "model": artifact_pb2.ARTIFACT_KIND_MODEL,
    "report": artifact_pb2.ARTIFACT_KIND_REPORT,
}


def publish(
    ready: ArtifactReady, folder: Path, task: worker_pb2.Task, compat: list[artifact_pb2.Compatibility]
) -> artifact_pb2.Artifact:
    """Describe the artifact in `folder` and seal it with a manifest.

    Raises StorageError: ARTIFACT_EXISTS where another attempt has sealed the same folder; OSError of the disk.
    """
    files = [_file(folder, name, sha256) for name, sha256 in sorted(ready.files.items())]
    artifact = artifact_pb2.Artifact(
        name=f"{task.job}/artifacts/{folder.name}",
        kind=_KINDS.get(ready.kind, artifact_pb2.ARTIFACT_KIND_UNSPECIFIED),
        size_bytes=sum(file.size_bytes for file in files),
        files=files,
        peft_type=ready.peft_type,
        base=artifact_pb2.ArtifactBase(
            hub_id=ready.base_hub_id, revision=ready.base_revision, fingerprint=ready.base_fingerprint
        ),
        compat=compat,
        attempt=task.attempt,
        plan_digest=task.plan_digest,
    )
    artifact.create_time.FromDatetime(datetime.now(UTC))
    manifest = json_format.MessageToJson(artifact, preserving_proto_field_name=True).encode()
    _create(folder / MANIFEST, manifest)
    artifact.sha256 = hashlib.sha256(manifest).hexdigest()
    return artifact


def _file(folder: Path, name: str, sha256: str) -> artifact_pb2.ArtifactFile:
    path = folder / name
    media_type = _MEDIA_TYPES.get(path.suffix, "application/octet-stream")
    return artifact_pb2.ArtifactFile(path=name, size_bytes=path.stat().st_size, sha256=sha256, media_type=media_type)


def _create(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and never over another."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with draft.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # A link, unlike a rename, fails where the name is taken.
        os.link(draft, path)
    except FileExistsError as error:
        raise StorageError(
            "ARTIFACT_EXISTS", "Another attempt of this job has already written this artifact."
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
