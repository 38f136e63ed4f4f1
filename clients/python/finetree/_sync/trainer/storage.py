# SPDX-License-Identifier: Apache-2.0
"""Calls of the trainer about what it stores and allows."""

from __future__ import annotations

from finetree_api.trainer.v1 import limits_pb2, retention_pb2

from finetree._shared import rpcs
from finetree._shared.trainer import storage
from finetree._shared.trainer_requests import project_name
from finetree._sync.transport import Transport


class StorageCalls:
    """What takes how much room on the trainer's disk, and what is used of which limit."""

    _transport: Transport

    def get_storage(
        self, *, all_projects: bool = False, max_removals: int = 0, timeout: float | None = None
    ) -> retention_pb2.GetStorageResponse:
        """Get what takes how many bytes, by project and kind, and what the next sweep of retention removes.

        Args:
            all_projects: of every project, where the server does not authenticate its callers; else of the client's.
            max_removals: most removals that are listed; 0 means 100.
            timeout: seconds; None means the client's timeout, else 60.
        """
        request = storage.get_storage(self._transport.options.project, all_projects=all_projects, limit=max_removals)
        return self._transport.unary(rpcs.GET_STORAGE, request, timeout=timeout)

    def get_limits(self, *, timeout: float | None = None) -> limits_pb2.GetLimitsResponse:
        """Get the limits of the client's project and of the caller, and what is used of them.

        Args:
            timeout: seconds; None means the client's timeout, else 60.
        """
        request = limits_pb2.GetLimitsRequest(parent=project_name(self._transport.options.project))
        return self._transport.unary(rpcs.GET_LIMITS, request, timeout=timeout)
