# SPDX-License-Identifier: Apache-2.0
"""What a job has on the trainer's disk: how it is kept, fetched and deleted."""

from __future__ import annotations

from pathlib import Path

from finetree_api.trainer.v1 import checkpoint_pb2

from finetree._shared import rpcs
from finetree._shared.downloads import Progress
from finetree._shared.retry import deadline_after, within
from finetree._shared.trainer import links, storage
from finetree._shared.trainer.links import ArtifactLink
from finetree._sync.download import download
from finetree._sync.transport import Transport


class JobStorage:
    """Deletion of a job, and its checkpoints one by one."""

    name: str
    _transport: Transport

    def delete(
        self,
        *,
        force: bool = False,
        validate_only: bool = False,
        timeout: float | None = None,
        request_id: str = "",
    ) -> int:
        """Delete the job with its events, logs, checkpoints and artifacts, and return the bytes that are freed.

        It cannot be undone. What remains of it in the lineage of other jobs stays readable there.

        Args:
            force: cancel it first where it has not ended, and wait for its worker; delete pinned checkpoints too.
            validate_only: say what would be freed, or raise why not, and change nothing.
            timeout: seconds; None means the client's timeout, else 60.
            request_id: idempotency key; empty means a new one, made once per call.

        Raises:
            NotFound: JOB_NOT_FOUND; JOB_EXPIRED: retention has deleted it.
            FailedPrecondition: JOB_NOT_ENDED; JOB_IN_USE: `violations` names the jobs and sweeps that use it;
                CHECKPOINT_PINNED.
        """
        request = storage.delete_job(self.name, force=force, validate_only=validate_only, request_id=request_id)
        reply = self._transport.unary(rpcs.DELETE_JOB, request, timeout=timeout, request_id=request.request_id)
        return int(reply.freed_bytes)

    def checkpoint(
        self, step: int, *, include_state: bool = False, timeout: float | None = None
    ) -> checkpoint_pb2.Checkpoint:
        """Get a checkpoint with the files that `download_checkpoint` fetches.

        Args:
            step: its optimizer step.
            include_state: with the files that only a run which goes on needs.
            timeout: seconds; None means the client's timeout, else 60: its weights are hashed the first time.

        Raises:
            NotFound: JOB_NOT_FOUND, CHECKPOINT_NOT_FOUND: `metadata["steps"]` has those that are there.
            FailedPrecondition: CHECKPOINT_NOT_PORTABLE.
        """
        request = storage.get_checkpoint(self.name, step, include_state=include_state)
        return (self._transport.unary(rpcs.GET_CHECKPOINT, request, timeout=timeout)).checkpoint

    def update_checkpoint(
        self,
        step: int,
        *,
        pinned: bool | None = None,
        time_to_live: float | None = None,
        timeout: float | None = None,
        request_id: str = "",
    ) -> checkpoint_pb2.Checkpoint:
        """Pin a checkpoint, unpin it, or say when it goes; what is not named stays.

        Args:
            step: its optimizer step.
            pinned: whether neither rotation nor retention deletes it; None leaves it.
            time_to_live: seconds from now on after which it is deleted, 0 for no such time; None leaves it.
            timeout: seconds; None means the client's timeout, else 10.
            request_id: idempotency key; empty means a new one, made once per call.

        Raises:
            NotFound: JOB_NOT_FOUND, CHECKPOINT_NOT_FOUND.
        """
        request = storage.update_checkpoint(
            self.name, step, pinned=pinned, time_to_live=time_to_live, request_id=request_id
        )
        return (
            self._transport.unary(rpcs.UPDATE_CHECKPOINT, request, timeout=timeout, request_id=request.request_id)
        ).checkpoint

    def delete_checkpoint(self, step: int, *, timeout: float | None = None, request_id: str = "") -> int:
        """Delete a checkpoint, and return the bytes that are freed.

        Args:
            step: its optimizer step.
            timeout: seconds; None means the client's timeout, else 60.
            request_id: idempotency key; empty means a new one, made once per call.

        Raises:
            NotFound: JOB_NOT_FOUND, CHECKPOINT_NOT_FOUND.
            FailedPrecondition: CHECKPOINT_PINNED; JOB_IN_USE: `violations` names the jobs that use it; JOB_NOT_ENDED:
                the job may go on from it.
        """
        request = storage.delete_checkpoint(self.name, step, request_id)
        reply = self._transport.unary(rpcs.DELETE_CHECKPOINT, request, timeout=timeout, request_id=request.request_id)
        return int(reply.freed_bytes)

    def artifact_link(
        self, artifact: str, path: str, *, time_to_live: float | None = None, timeout: float | None = None
    ) -> ArtifactLink:
        """Get a URL by which anybody can fetch a file of an artifact from the trainer's object store, until it expires.

        It needs no token, and nothing takes it back: give it to whom you would give the file.

        Args:
            artifact: resource name of the artifact.
            path: path of the file inside of it.
            time_to_live: seconds that it is to work at most, from 1 on; None means as long as the trainer allows.
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            NotFound: ARTIFACT_NOT_FOUND, FILE_NOT_FOUND.
            FailedPrecondition: LINKS_UNSUPPORTED: this trainer gives none; FILE_NOT_IN_OBJECT_STORE: it is not uploaded
                yet; OBJECT_DAMAGED. `download` gets the file all the same, but for the last one.
            Unavailable: OBJECT_STORE_UNAVAILABLE.
        """
        request = links.get_link(artifact, path, time_to_live)
        reply = self._transport.unary(rpcs.GET_ARTIFACT_LINK, request, timeout=timeout)
        return links.link_of(artifact, reply)

    def download_checkpoint(
        self,
        step: int,
        directory: Path | str,
        *,
        include_state: bool = False,
        on_progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Path:
        """Download a checkpoint's weights, as peft or transformers load them, into a folder, and return the folder.

        A file that is there already and whole is not fetched again; a cut download goes on where it was.

        Args:
            step: its optimizer step.
            directory: where its files go; made if need be.
            include_state: fetch the optimizer's state and the position of the run too.
            on_progress: called with (bytes so far, bytes in all).
            timeout: seconds for the whole download; None means as long as it takes.

        Raises:
            NotFound: JOB_NOT_FOUND, CHECKPOINT_NOT_FOUND.
            FailedPrecondition: CHECKPOINT_NOT_PORTABLE.
            Internal: ARTIFACT_CORRUPT: what arrived has another hash.
            OSError: the folder cannot be written.
        """
        deadline = deadline_after(timeout)
        seconds = within(deadline, self._transport.options.timeout or rpcs.SEGMENT)
        found = self.checkpoint(step, include_state=include_state, timeout=seconds)
        listed = storage.as_artifact(found)
        folders = download(self._transport, [listed], Path(directory), on_progress=on_progress, deadline=deadline)
        return folders[listed.name]
