# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's weights as other programs load them: peft's or transformers' names in place of the trained model's.

The numbers are those of the checkpoint's own file; only the header before them is another, so that a file of any size
is read from any place without a copy of it on the disk.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from finetree_api.trainer.v1 import artifact_pb2
from finetree_data.confinement.own_files import open_own
from finetree_data.weights import checkpoint
from finetree_data.weights.errors import WeightsError
from finetree_runtime.errors import FailedPrecondition

STATE_FILES = ("optimizer.safetensors", "state.json")
"""Files of a checkpoint that only a run which goes on needs."""
READ_BYTES = 1 << 20
_METADATA = "__metadata__"
_MEDIA_TYPES = {".json": "application/json", ".safetensors": "application/vnd.safetensors"}


@dataclass(frozen=True, slots=True)
class PortableFile:
    """A file to download: `head`, then the bytes of `source` from `skip` on. Without a source it is the head alone."""

    path: str
    head: bytes = b""
    source: Path | None = None
    skip: int = 0

    @property
    def size(self) -> int:
        """Size in bytes. Raises OSError where the source is gone."""
        return len(self.head) + (self.source.stat().st_size - self.skip if self.source is not None else 0)

    def read(self, offset: int, count: int) -> bytes:
        """Read up to so many bytes from an offset; less only at the end. Raises OSError where the source is gone."""
        first = self.head[offset : offset + count]
        if len(first) == count or self.source is None:
            return first
        with open_own(self.source) as stream:
            stream.seek(self.skip + max(0, offset - len(self.head)))
            return first + stream.read(count - len(first))

    def describe(self) -> artifact_pb2.ArtifactFile:
        """Describe it with its hash; reads it once. Raises OSError where the source is gone."""
        digest, offset = hashlib.sha256(), 0
        while piece := self.read(offset, READ_BYTES):
            digest.update(piece)
            offset += len(piece)
        media_type = _MEDIA_TYPES.get(Path(self.path).suffix, "application/octet-stream")
        return artifact_pb2.ArtifactFile(
            path=self.path, size_bytes=offset, sha256=digest.hexdigest(), media_type=media_type
        )


def portable_files(folder: Path, *, state: bool) -> list[PortableFile]:
    """Return what is downloaded of a checkpoint, by path; with `state` what a run needs to go on too.

    Raises WeightsError for a damaged one, FailedPrecondition CHECKPOINT_NOT_PORTABLE.
    """
    found = checkpoint.read_checkpoint(folder)
    try:
        form = checkpoint.read_json(folder / checkpoint.PORTABLE)
        names = {str(own): str(other) for own, other in form["names"].items()}
        config = json.dumps(form["config"], indent=2, sort_keys=True) + "\n"
        files = [PortableFile(str(form["config_file"]), head=config.encode())]
        weights = str(form["weights_file"])
        files.append(_renamed(folder / checkpoint.WEIGHTS, weights, names))
    except FileNotFoundError:
        raise _not_portable(found.step) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError("is incomplete or damaged", remedy="Take another checkpoint of the job.") from error
    if state:
        files += [PortableFile(name, source=folder / name) for name in STATE_FILES]
    return sorted(files, key=lambda file: file.path)


def _renamed(file: Path, path: str, names: dict[str, str]) -> PortableFile:
    """Return a safetensors file with its tensors under other names. Raises KeyError for one that has none."""
    with open_own(file) as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    header.pop(_METADATA, None)
    renamed = {_METADATA: {"format": "pt"}} | {names[name]: entry for name, entry in header.items()}
    text = json.dumps(renamed, separators=(",", ":")).encode()
    # The format wants the numbers aligned to 8 bytes; blanks may end the header.
    text += b" " * (-len(text) % 8)
    return PortableFile(path, head=len(text).to_bytes(8, "little") + text, source=file, skip=8 + length)


def _not_portable(step: int) -> FailedPrecondition:
    text = f"The checkpoint of step {step} has no form that other programs load"
    remedy = "its run froze layers, or an earlier release saved it. Start a run from it, or take the job's artifact"
    return FailedPrecondition("CHECKPOINT_NOT_PORTABLE", f"{text}: {remedy}.")
