# SPDX-License-Identifier: Apache-2.0
"""Links to files of artifacts in the object store: signed URLs that need no credentials until they expire.

A link is a secret that nothing takes back. It is in the reply alone: in no log line, no error and no audit record.
"""

import time
from pathlib import Path

from finetree_api.trainer.v1 import artifact_pb2
from finetree_data.objects.errors import ObjectStoreRefusedError
from finetree_runtime.errors import FailedPrecondition

from finetree_trainer.objects.copies import Copies

LONGEST_SECONDS = 7 * 86400
"""Longest time that S3 signs for (Signature Version 4, X-Amz-Expires); the others sign for as long."""


class Links:
    """Signs links that work for `longest` seconds at most; 0: none are given."""

    def __init__(self, copies: Copies, longest: float) -> None:
        self._copies, self._longest = copies, int(longest)

    async def give(
        self, folder: Path, entry: artifact_pb2.ArtifactFile, *, asked: int | None
    ) -> artifact_pb2.GetArtifactLinkResponse:
        """Sign a link to a file of an artifact's folder, for so many seconds (None: as long as links work).

        Raises FailedPrecondition (LINKS_UNSUPPORTED, FILE_NOT_IN_OBJECT_STORE, OBJECT_DAMAGED), Unavailable
        OBJECT_STORE_UNAVAILABLE.
        """
        if not self._copies.enabled:
            raise _unsupported("it has no object store")
        if not self._longest:
            raise _unsupported("its setting object_link_time is 0")
        seconds = self._longest if asked is None else min(asked, self._longest)
        end = int(time.time()) + seconds  # before it is signed, so that the store never ends it earlier
        try:
            url = await self._copies.sign(folder, entry.path, sha256=entry.sha256, seconds=seconds)
        except ObjectStoreRefusedError as error:
            raise _unsupported(f"of its object store {error}") from error
        if url is None:
            text = f"The object store does not have {entry.path[:80]!r} yet; use DownloadArtifact, or ask again later."
            raise FailedPrecondition("FILE_NOT_IN_OBJECT_STORE", text, metadata={"path": entry.path[:200]})
        reply = artifact_pb2.GetArtifactLinkResponse(url=url, file=entry)
        reply.expire_time.seconds = end
        return reply


def _unsupported(why: str) -> FailedPrecondition:
    return FailedPrecondition("LINKS_UNSUPPORTED", f"This trainer gives no links: {why}; use DownloadArtifact.")
