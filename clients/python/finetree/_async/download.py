# SPDX-License-Identifier: Apache-2.0
"""Downloading artifacts and reading logs, resumed where they were cut. Files are read and written in threads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from finetree_api.trainer.v1 import artifact_pb2, job_log_pb2

from finetree._async.transport import AsyncTransport, Stream
from finetree._shared import rpcs
from finetree._shared.downloads import Download, Progress, TransferProgress, artifact_folder
from finetree._shared.retry import STALLED, Backoff, stalled, within
from finetree._shared.rpcs import R
from finetree._shared.trainer.links import LinkReader
from finetree.errors import FinetreeError


async def download(
    transport: AsyncTransport,
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
            target = await asyncio.to_thread(Download, artifact.name, file, folder=folder, progress=progress)
            try:
                if direct:
                    await _fetch_by_links(transport, target, deadline)
                await _fetch(transport, target, Backoff(transport.options.reconnect_timeout, deadline))
            finally:
                target.close()
    return folders


async def read_file(
    transport: AsyncTransport, artifact: str, path: str, offset: int, *, deadline: float | None
) -> AsyncGenerator[bytes]:
    """Read a file of an artifact from an offset; a cut stream continues where it was."""
    backoff = Backoff(transport.options.reconnect_timeout, deadline)
    while True:
        try:
            async with contextlib.aclosing(
                _pieces(transport, artifact, path, offset, seconds=backoff.within(None))
            ) as pieces:
                async for piece in pieces:
                    offset += len(piece)
                    backoff.progressed()
                    yield piece
        except FinetreeError as error:
            await asyncio.sleep(backoff.delay(error))
        else:
            return


async def _pieces(
    transport: AsyncTransport, artifact: str, path: str, offset: int, *, seconds: float | None
) -> AsyncGenerator[bytes]:
    request = artifact_pb2.DownloadArtifactRequest(name=artifact, path=path, offset=offset)
    stream = await transport.stream(rpcs.DOWNLOAD_ARTIFACT, request, timeout=seconds)
    broken = True
    try:
        while (piece := await _read(stream)) is not None:
            if piece.chunk:
                yield piece.chunk
        broken = False
    finally:
        await stream.close(renew=broken)


async def read_log(
    transport: AsyncTransport, request: job_log_pb2.ReadJobLogRequest, *, deadline: float | None
) -> AsyncGenerator[job_log_pb2.ReadJobLogResponse]:
    """Read a log piece by piece; a cut stream goes on behind the last piece."""
    backoff = Backoff(transport.options.reconnect_timeout, deadline)
    while True:
        try:
            async with contextlib.aclosing(_log(transport, request, seconds=backoff.within(None))) as pieces:
                async for piece in pieces:
                    request.attempt, request.offset = piece.attempt, piece.next_offset
                    backoff.progressed()
                    if piece.text:
                        yield piece
        except FinetreeError as error:
            await asyncio.sleep(backoff.delay(error))
        else:
            return


async def _log(
    transport: AsyncTransport, request: job_log_pb2.ReadJobLogRequest, *, seconds: float | None
) -> AsyncGenerator[job_log_pb2.ReadJobLogResponse]:
    stream = await transport.stream(rpcs.READ_JOB_LOG, request, timeout=seconds)
    broken = True
    try:
        while (piece := await _read(stream)) is not None:
            yield piece
        broken = False
    finally:
        await stream.close(renew=broken)


async def _read(stream: Stream[R]) -> R | None:
    try:
        async with asyncio.timeout(STALLED):
            return await stream.read()
    except TimeoutError as error:
        if isinstance(error, FinetreeError):
            raise
        raise stalled() from None


async def _fetch(transport: AsyncTransport, target: Download, backoff: Backoff) -> None:
    target.report()
    while not target.done:
        if target.complete:
            await asyncio.to_thread(target.finish)
            continue
        try:
            await _stream(transport, target, backoff)
        except FinetreeError as error:
            await asyncio.sleep(backoff.delay(error))


async def _fetch_by_links(transport: AsyncTransport, target: Download, deadline: float | None) -> None:
    """Fetch what links give; a new one goes on where one has ended, until one brings nothing."""
    target.report()
    before = -1
    while before < target.offset and not target.complete:
        before = target.offset
        seconds = within(deadline, transport.options.timeout or rpcs.GET_ARTIFACT_LINK.timeout)
        try:
            link = await transport.unary(rpcs.GET_ARTIFACT_LINK, target.link_request(), timeout=seconds)
        except FinetreeError:
            return
        reader = LinkReader(link.url, target, within(deadline, STALLED) or STALLED)
        try:
            while await asyncio.to_thread(reader.move):
                target.report()
                within(deadline, None)
        finally:
            reader.close()
        target.report()


async def _stream(transport: AsyncTransport, target: Download, backoff: Backoff) -> None:
    stream = await transport.stream(rpcs.DOWNLOAD_ARTIFACT, target.request(), timeout=backoff.within(None))
    broken = True
    try:
        async with asyncio.timeout(STALLED) as limit:
            while (piece := await stream.read()) is not None:
                await asyncio.to_thread(target.write, piece.offset, piece.chunk)
                target.report()
                backoff.progressed()
                limit.reschedule(asyncio.get_running_loop().time() + STALLED)
        broken = False
    except TimeoutError as error:
        if isinstance(error, FinetreeError):
            raise
        raise stalled() from None
    finally:
        await stream.close(renew=broken)
    if not target.complete:
        raise target.cut()
