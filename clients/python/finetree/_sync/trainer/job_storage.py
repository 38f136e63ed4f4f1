# SPDX-License-Identifier: Apache-2.0
"""What a job has on the trainer's disk: how it is kept and deleted."""

from __future__ import annotations

from finetree._shared import rpcs
from finetree._shared.trainer import storage
from finetree._sync.transport import Transport


class JobStorage:
    """Deletion of a job."""

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
