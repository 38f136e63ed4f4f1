# SPDX-License-Identifier: Apache-2.0
"""Base models of the fake trainer: every model of the catalog from the start, more by `add`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from finetree_api.estimator.v1 import catalog_pb2
from finetree_api.trainer.v1 import base_model_pb2
from finetree_api.types.v1 import model_pb2

from finetree._shared import rpcs
from finetree.errors import FailedPrecondition, InvalidArgument, NotFound, Violation
from finetree.testing.catalog import MODELS, find_model, near, require_inside
from finetree.testing.clock import Clock
from finetree.testing.handlers import Handlers
from finetree.testing.requests import Answers, body_hash, invalid, page

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_HUB_ID = re.compile(r"(?!\.)[A-Za-z0-9._-]+(?<!\.)(?:/(?!\.)[A-Za-z0-9._-]+(?<!\.))?")
_REVISION = re.compile(r"(?!\.)[A-Za-z0-9._/-]+")


class FakeBaseModels:
    """Base models by name.

    Attributes:
        user_of: gives the name of a job that needs a base model, "" for none.
    """

    def __init__(self, handlers: Handlers, clock: Clock, answers: Answers) -> None:
        self.user_of: Callable[[base_model_pb2.BaseModel], str] = lambda _: ""
        self._clock, self._answers = clock, answers
        self._models: dict[str, base_model_pb2.BaseModel] = {}
        for model in MODELS.values():
            self.add(model.hub_id, of=model)
        handlers.unary(rpcs.LIST_BASE_MODELS, self.list)
        handlers.unary(
            rpcs.GET_BASE_MODEL,
            lambda request: base_model_pb2.GetBaseModelResponse(base_model=self.find(request.name)),
        )
        handlers.unary(rpcs.DELETE_BASE_MODEL, self.delete)

    def add(
        self,
        hub_id: str,
        commit: str = COMMIT,
        *,
        refs: tuple[str, ...] = ("main",),
        of: catalog_pb2.Model | None = None,
    ) -> base_model_pb2.BaseModel:
        """Put a model of a hub there; a branch or tag of it is now this commit."""
        of = of or next((each for each in MODELS.values() if each.hub_id.lower() == hub_id.lower()), MODELS["tiny"])
        model = base_model_pb2.BaseModel(
            name=f"models/{hub_id.lower().replace('/', '--')}@{commit}",
            origin=base_model_pb2.BASE_MODEL_ORIGIN_HUB,
            state=base_model_pb2.BASE_MODEL_STATE_READY,
            source=model_pb2.ModelSource(hub=model_pb2.HubModel(id=hub_id, revision=commit)),
            hub_id=hub_id,
            revision=commit,
            refs=refs,
            size_bytes=2 * of.parameters,
            model_type="llama",
            max_positions=of.shape.max_position_embeddings,
            vocab_size=of.shape.vocab_size,
            create_time=self._clock.timestamp(),
        )
        with self._clock.changed:
            for other in self._models.values():
                if other.hub_id.lower() == hub_id.lower() and other.revision != commit:
                    kept = [ref for ref in other.refs if ref not in refs]
                    del other.refs[:]
                    other.refs.extend(kept)
            self._models[model.name] = model
        return model

    def add_path(self, path: str, *, hub_id: str = "", max_positions: int = 512) -> base_model_pb2.BaseModel:
        """Put a model under the fake machine's model root."""
        model = base_model_pb2.BaseModel(
            name=f"models/path:{path}",
            origin=base_model_pb2.BASE_MODEL_ORIGIN_PATH,
            state=base_model_pb2.BASE_MODEL_STATE_READY,
            source=model_pb2.ModelSource(path=path),
            hub_id=hub_id,
            size_bytes=1_000_000,
            max_positions=max_positions,
            create_time=self._clock.timestamp(),
        )
        with self._clock.changed:
            self._models[model.name] = model
        return model

    def remove(self, name: str) -> None:
        """Take a base model away, by its name or hub id."""
        with self._clock.changed:
            del self._models[self.find(name).name]

    def find(self, name: str) -> base_model_pb2.BaseModel:
        """Find a base model by its name, its hub id, or its hub id and a commit, branch or tag.

        Raises:
            NotFound: MODEL_NOT_FOUND.
            InvalidArgument: MODEL_AMBIGUOUS.
        """
        with self._clock.changed:
            if name in self._models:
                return self._models[name]
            hub_id, _, revision = name.partition("@")
            found = [
                model for model in self._models.values() if model.hub_id and model.hub_id.lower() == hub_id.lower()
            ]
            found = [model for model in found if not revision or _is(model, revision)]
        if len(found) > 1:
            text = f"name: {name!r} may be {', '.join(model.name for model in found)}; take one of them"
            raise InvalidArgument(text, reason="MODEL_AMBIGUOUS")
        if not found:
            meant = near(name, {model.hub_id for model in self._models.values()} | set(self._models))
            text = f"name: there is no base model {name!r} here" + (f"; nearest: {meant}" if meant else "")
            raise NotFound(text, reason="MODEL_NOT_FOUND", metadata={"near": meant})
        return found[0]

    def located(
        self, source: model_pb2.ModelSource, field: str
    ) -> tuple[model_pb2.HubModel, base_model_pb2.BaseModel | None]:
        """Find what a job's source means: where it comes from, and the base model if it is there.

        Raises:
            InvalidArgument: MODEL_NOT_TRAINABLE; INVALID_REQUEST: no hub has such an id.
            NotFound: MODEL_NOT_FOUND.
            PermissionDenied: PATH_OUTSIDE_ROOTS.
        """
        match source.WhichOneof("source"):
            case "path":
                paths = {model.source.path for model in self._models.values()}
                path = require_inside(source.path, paths, f"{field}.path", "MODEL_NOT_FOUND")
                there = self._models[f"models/path:{path}"]
                return model_pb2.HubModel(id=there.hub_id), there
            case "name":
                hub = model_pb2.HubModel(id=find_model(source, field).hub_id)
            case "hub":
                hub = source.hub
                if not _HUB_ID.fullmatch(hub.id):
                    raise invalid(f"{field}.hub.id", 'must be "organization/name"')
                if hub.revision and (not _REVISION.fullmatch(hub.revision) or ".." in hub.revision):
                    raise invalid(f"{field}.hub.revision", "must be a branch, a tag or a commit")
            case _:
                text = "a shape has no weights to train; name a model"
                raise invalid(f"{field}.shape", text, "MODEL_NOT_TRAINABLE")
        wanted = hub.revision or "main"
        mine = [model for model in self._models.values() if model.hub_id.lower() == hub.id.lower()]
        return hub, next((model for model in mine if _is(model, wanted)), None)

    def prepared(self, source: model_pb2.ModelSource) -> None:
        """Bring the model of a source there, as a PREPARE job that has succeeded does."""
        if source.WhichOneof("source") not in ("name", "hub"):
            return
        hub, there = self.located(source, "job.prepare.model")
        if there is None:
            ref = hub.revision or "main"
            commit = ref if re.fullmatch("[0-9a-f]{40}", ref) else hashlib.sha1(f"{hub.id}@{ref}".encode()).hexdigest()  # noqa: S324 - a commit is a SHA-1
            self.add(hub.id, commit, refs=(ref,))

    def list(self, request: base_model_pb2.ListBaseModelsRequest) -> base_model_pb2.ListBaseModelsResponse:
        """List base models, in pages."""
        found = [self._models[name] for name in sorted(self._models)]
        models, token = page(found, request, key=lambda each: each.name)
        return base_model_pb2.ListBaseModelsResponse(base_models=models, next_page_token=token)

    def delete(self, request: base_model_pb2.DeleteBaseModelRequest) -> base_model_pb2.DeleteBaseModelResponse:
        """Remove a base model that no job needs."""
        key = "", request.request_id, "DeleteBaseModel", body_hash(request, "request_id")
        known = self._answers.find(*key)
        if known is not None:
            return base_model_pb2.DeleteBaseModelResponse.FromString(known)
        model = self.find(request.name)
        if model.origin == base_model_pb2.BASE_MODEL_ORIGIN_PATH:
            text = f"{model.name} is under one of the operator's model roots; remove it there."
            raise FailedPrecondition(text, reason="MODEL_NOT_OURS", violations=(Violation(model.name, text),))
        user = self.user_of(model)
        if user:
            text = f"{user} needs {model.name}; wait for it or cancel it."
            raise FailedPrecondition(
                text, reason="MODEL_IN_USE", violations=(Violation(user, text),), metadata={"job": user}
            )
        del self._models[model.name]
        answer = base_model_pb2.DeleteBaseModelResponse(base_model=model)
        self._answers.keep(*key, answer.SerializeToString())
        return answer


def _is(model: base_model_pb2.BaseModel, revision: str) -> bool:
    commit = len(revision) >= 7 and model.revision.startswith(revision)
    return commit or revision in model.refs
