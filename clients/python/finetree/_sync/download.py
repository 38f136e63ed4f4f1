# SPDX-License-Identifier: Apache-2.0
"""Downloading artifacts and reading logs, resumed where they were cut."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

from finetree_api.trainer.v1 import artifact_pb2, job_log_pb2

from finetree._shared import rpcs
from finetree._shared.downloads import Download, Progress, TransferProgress, artifact_folder
from finetree._shared.retry import STALLED, Backoff, stalled, within
from finetree._shared.trainer.links import LinkReader
from finetree._sync.transport import Silence, Transport
from finetree.errors import FinetreeError


def download(
    transport: Transport,
    artifacts: Sequence[artifact_pb2.Artifact],
    directory: Path,
    *,
    on_progress: Progress | None,
    deadline: float | None,
    direct: bool = False,
) -> dict[str, Path]:
    """Download artifacts into a folder each, and return the folders by artifact name.

    With `direct` by links to the object store, as far as there are any.
    """
    progress = TransferProgress(sum(file.size_bytes for each in artifacts for file in each.files), on_progress)
    folders = {artifact.name: artifact_folder(directory, artifact) for artifact in artifacts}
    for artifact in artifacts:
        for file in artifact.files:
            folder = folders[artifact.name]
            with closing(Download(artifact.name, file, folder=folder, progress=progress)) as target:
                if direct:
                    _fetch_by_links(transport, target, deadline)
                _fetch(transport, target, Backoff(transport.options.reconnect_timeout, deadline))
    return folders


def read_file(
    transport: Transport, artifact: str, path: str, offset: int, *, deadline: float | None
) -> Generator[bytes]:
    """Read a file of an artifact from an offset; a cut stream continues where it was."""
    backoff = Backoff(transport.options.reconnect_timeout, deadline)
    while True:
        try:
            for piece in _pieces(transport, artifact, path, offset, timeout=backoff.within(None)):
                offset += len(piece)
                backoff.progressed()
                yield piece
        except FinetreeError as error:
            time.sleep(backoff.delay(error))
        else:
            return


def _pieces(transport: Transport, artifact: str, path: str, offset: int, *, timeout: float | None) -> Generator[bytes]:
    request = artifact_pb2.DownloadArtifactRequest(name=artifact, path=path, offset=offset)
    stream = transport.stream(rpcs.DOWNLOAD_ARTIFACT, request, timeout=timeout)
    broken = True
    try:
        while (piece := stream.read(timeout=STALLED)) is not None:
            if piece.chunk:
                yield piece.chunk
        broken = False
    except Silence:
        raise stalled() from None
    finally:
        stream.close(renew=broken)


def read_log(
    transport: Transport, request: job_log_pb2.ReadJobLogRequest, *, deadline: float | None
) -> Generator[job_log_pb2.ReadJobLogResponse]:
    """Read a log piece by piece; a cut stream goes on behind the last piece."""
    backoff = Backoff(transport.options.reconnect_timeout, deadline)
    while True:
        try:
            for piece in _log(transport, request, timeout=backoff.within(None)):
                request.attempt, request.offset = piece.attempt, piece.next_offset
                backoff.progressed()
                if piece.text:
                    yield piece
        except FinetreeError as error:
            time.sleep(backoff.delay(error))
        else:
            return


def _log(
    transport: Transport, request: job_log_pb2.ReadJobLogRequest, *, timeout: float | None
) -> Generator[job_log_pb2.ReadJobLogResponse]:
    stream = transport.stream(rpcs.READ_JOB_LOG, request, timeout=timeout)
    broken = True
    try:
        while (piece := stream.read(timeout=STALLED)) is not None:
            yield piece
        broken = False
    except Silence:
        raise stalled() from None
    finally:
        stream.close(renew=broken)


def _fetch(transport: Transport, target: Download, backoff: Backoff) -> None:
    target.report()
    while not target.done:
        if target.complete:
            target.finish()
            continue
        try:
            _stream(transport, target, backoff)
        except FinetreeError as error:
            time.sleep(backoff.delay(error))


def _fetch_by_links(transport: Transport, target: Download, deadline: float | None) -> None:
    """Fetch what links give; a new one goes on where one has ended, until one brings nothing."""
    target.report()
    before = -1
    while before < target.offset and not target.complete:
        before = target.offset
        seconds = within(deadline, transport.options.timeout or rpcs.GET_ARTIFACT_LINK.timeout)
        try:
            link = transport.unary(rpcs.GET_ARTIFACT_LINK, target.link_request(), timeout=seconds)
        except FinetreeError:
            return
        with closing(LinkReader(link.url, target, within(deadline, STALLED) or STALLED)) as reader:
            while reader.move():
                target.report()
                within(deadline, None)
        target.report()


def _stream(transport: Transport, target: Download, backoff: Backoff) -> None:
    stream = transport.stream(rpcs.DOWNLOAD_ARTIFACT, target.request(), timeout=backoff.within(None))
    broken = True
    try:
        while (piece := stream.read(timeout=STALLED)) is not None:
            target.write(piece.offset, piece.chunk)
            target.report()
            backoff.progressed()
        broken = False
    except Silence:
        raise stalled() from None
    finally:
        stream.close(renew=broken)
    if not target.complete:
        raise target.cut()
