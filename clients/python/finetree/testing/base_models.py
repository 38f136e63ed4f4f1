# SPDX-License-Identifier: Apache-2.0
"""Base models of the fake trainer: one from the start, more by `add`."""

from __future__ import annotations

import threading

from finetree_api.trainer.v1 import base_model_pb2
from finetree_api.types.v1 import model_pb2

from finetree._shared import rpcs
from finetree.errors import NotFound
from finetree.testing.handlers import Handlers
from finetree.testing.values import page

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeBaseModels:
    """Base models by name."""

    def __init__(self, handlers: Handlers) -> None:
        self._lock = threading.RLock()
        self._models: dict[str, base_model_pb2.BaseModel] = {}
        self.add("acme/small")
        handlers.unary(rpcs.LIST_BASE_MODELS, self.list)
        handlers.unary(
            rpcs.GET_BASE_MODEL,
            lambda request: base_model_pb2.GetBaseModelResponse(base_model=self.find(request.name)),
        )
        handlers.unary(rpcs.DELETE_BASE_MODEL, self.delete)

    def add(self, hub_id: str, commit: str = COMMIT) -> base_model_pb2.BaseModel:
        """Put a model of a hub there."""
        model = base_model_pb2.BaseModel(
            name=f"models/{hub_id.lower().replace('/', '--')}@{commit}",
            origin=base_model_pb2.BASE_MODEL_ORIGIN_HUB,
            state=base_model_pb2.BASE_MODEL_STATE_READY,
            source=model_pb2.ModelSource(hub=model_pb2.HubModel(id=hub_id, revision=commit)),
            hub_id=hub_id,
            revision=commit,
            refs=["main"],
            size_bytes=1_000_000,
            model_type="llama",
            max_positions=512,
            vocab_size=1024,
        )
        with self._lock:
            self._models[model.name] = model
        return model

    def find(self, name: str) -> base_model_pb2.BaseModel:
        """Find a base model by its name or hub id.

        Raises:
            NotFound: MODEL_NOT_FOUND.
        """
        with self._lock:
            for model in self._models.values():
                if name in (model.name, model.hub_id):
                    return model
        raise NotFound(f"name: no base model {name!r} is here", reason="MODEL_NOT_FOUND")

    def list(self, request: base_model_pb2.ListBaseModelsRequest) -> base_model_pb2.ListBaseModelsResponse:
        """List base models, in pages."""
        with self._lock:
            found = [self._models[name] for name in sorted(self._models)]
        models, token = page(found, request)
        return base_model_pb2.ListBaseModelsResponse(base_models=models, next_page_token=token)

    def delete(self, request: base_model_pb2.DeleteBaseModelRequest) -> base_model_pb2.DeleteBaseModelResponse:
        """Remove a base model."""
        with self._lock:
            model = self.find(request.name)
            del self._models[model.name]
        return base_model_pb2.DeleteBaseModelResponse(base_model=model)
