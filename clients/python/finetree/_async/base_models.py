# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ASYNC109 - the parameters are the synchronous client's; a timeout becomes the call's deadline
"""Calls of the trainer about base models."""

from __future__ import annotations

from finetree_api.trainer.v1 import base_model_pb2

from finetree._async.pages import AsyncPages
from finetree._async.transport import AsyncTransport
from finetree._shared import rpcs, trainer_requests


class AsyncBaseModelCalls:
    """Base models on the trainer's machine; they belong to no project. `prepare` brings one there."""

    _transport: AsyncTransport

    def list_base_models(
        self, *, page_size: int = 0, limit: int | None = None, page_token: str = "", timeout: float | None = None
    ) -> AsyncPages[base_model_pb2.BaseModel]:
        """List the base models in the order of their names.

        Args:
            page_size: largest page; 0 means the server's choice.
            limit: items in all; None means every one.
            page_token: `next_page_token` of a page of this list, to continue behind it; empty means the beginning.
            timeout: seconds for each page; None means the client's timeout, else 10.
        """
        return AsyncPages(
            self._transport, trainer_requests.list_base_models(page_size), timeout, limit=limit, page_token=page_token
        )

    async def get_base_model(self, name: str, *, timeout: float | None = None) -> base_model_pb2.BaseModel:
        """Get a base model.

        Args:
            name: resource name, hub id, or hub id with "@" and a commit, the beginning of one, a branch or a tag.
            timeout: seconds; None means the client's timeout, else 10.

        Raises:
            NotFound: MODEL_NOT_FOUND.
            InvalidArgument: MODEL_AMBIGUOUS: several commits of it are there.
        """
        request = base_model_pb2.GetBaseModelRequest(name=name)
        return (await self._transport.unary(rpcs.GET_BASE_MODEL, request, timeout=timeout)).base_model

    async def delete_base_model(
        self, name: str, *, timeout: float | None = None, request_id: str = ""
    ) -> base_model_pb2.BaseModel:
        """Delete a base model from the trainer's machine, and return what was deleted.

        Args:
            name: as in `get_base_model`.
            timeout: seconds; None means the client's timeout, else 60.
            request_id: idempotency key; empty means a new one, made once per call.

        Raises:
            NotFound: MODEL_NOT_FOUND.
            InvalidArgument: MODEL_AMBIGUOUS.
            FailedPrecondition: MODEL_IN_USE: a job needs it; MODEL_NOT_OURS: it lies under a model root.
        """
        request = trainer_requests.delete_base_model(name, request_id)
        return (
            await self._transport.unary(rpcs.DELETE_BASE_MODEL, request, timeout=timeout, request_id=request.request_id)
        ).base_model
