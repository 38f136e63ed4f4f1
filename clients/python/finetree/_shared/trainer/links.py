# SPDX-License-Identifier: Apache-2.0
"""Links to files of artifacts in the trainer's object store, and what is fetched by one. Blocking."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime

from finetree_api.trainer.v1 import artifact_pb2

from finetree._shared.downloads import Download
from finetree.durations import to_duration

PIECE_BYTES = 1024 * 1024
"""Bytes that are read at once."""


@dataclass(frozen=True, slots=True)
class ArtifactLink:
    """A signed URL of a file of an artifact: whoever has it can read the file until it expires.

    Attributes:
        artifact: resource name of the artifact.
        file: the file, with size and SHA-256 to compare with what arrives.
        expire_time: when the object store refuses it, or sooner where the credentials that signed it end before.
        url: what to GET. It is left out of the printed form, since it is a secret.
    """

    artifact: str
    file: artifact_pb2.ArtifactFile
    expire_time: datetime
    url: str = field(repr=False)


def get_link(artifact: str, path: str, time_to_live: float | None) -> artifact_pb2.GetArtifactLinkRequest:
    """Build the request of GetArtifactLink; `time_to_live` in seconds."""
    lasting = None if time_to_live is None else to_duration(time_to_live)
    return artifact_pb2.GetArtifactLinkRequest(name=artifact, path=path, time_to_live=lasting)


def link_of(artifact: str, reply: artifact_pb2.GetArtifactLinkResponse) -> ArtifactLink:
    """Make a link of the reply of GetArtifactLink."""
    return ArtifactLink(artifact, reply.file, reply.expire_time.ToDatetime(tzinfo=UTC), reply.url)


class LinkReader:
    """Moves what a link gives into a download, from where it is, piece by piece.

    Redirects are not followed, and nothing but HTTP is spoken: the URL comes from a server.
    """

    def __init__(self, url: str, target: Download, timeout: float) -> None:
        """Keep what to do; `timeout` is the longest silence in seconds. Nothing is sent yet."""
        self._url, self._target, self._timeout = url, target, timeout
        self._answer: http.client.HTTPResponse | None = None

    def move(self) -> bool:
        """Move the next piece. Return whether there may be more: False at the end, and for a link that fails.

        Raises:
            Internal: ARTIFACT_CORRUPT: there are more bytes than the file has.
            OSError: the local file cannot be written.
        """
        try:
            if self._answer is None:
                self._answer = self._open()
            piece = self._answer.read(PIECE_BYTES)
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except (OSError, http.client.HTTPException, ValueError):
            # Cut or no such host: the trainer's stream says what is wrong, if that fails too.
            return False
        self._target.write(self._target.offset, piece)
        return bool(piece) and not self._target.complete

    def close(self) -> None:
        """End the connection."""
        if self._answer is not None:
            self._answer.close()

    def _open(self) -> http.client.HTTPResponse:
        offset = self._target.offset
        request = urllib.request.Request(self._url)  # noqa: S310 - the opener below knows HTTP alone
        if offset:
            request.add_header("Range", f"bytes={offset}-")
        answer: http.client.HTTPResponse = _opener().open(request, timeout=self._timeout)
        if answer.status != (206 if offset else 200) or answer.length != self._target.missing:
            answer.close()  # such as the page of a proxy, which is not to stand in the file
            raise http.client.HTTPException("it is not the part of the file that was asked for")
        return answer


def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener
