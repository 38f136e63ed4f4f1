# SPDX-License-Identifier: Apache-2.0
"""Base models on this machine's disk: listed, found by name, deleted."""

import asyncio
import difflib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetree_api.trainer.v1 import base_model_pb2, job_pb2
from finetree_api.types.v1 import model_pb2
from finetree_runtime.errors import DomainError, FailedPrecondition, InvalidArgument, NotFound
from finetree_runtime.ids import uuid7
from sqlalchemy import Connection

from finetree_trainer.clock import Clock, timestamp
from finetree_trainer.disk import uninterrupted
from finetree_trainer.joblog import states
from finetree_trainer.models import hub, locate
from finetree_trainer.models.json_file import json_object
from finetree_trainer.store import jobs, request_ids
from finetree_trainer.store.database import Store
from finetree_trainer.store.request_ids import RequestKey

COLLECTION = "models/"
"""How the name of a base model begins."""
_PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A base model and its folder."""

    message: base_model_pb2.BaseModel
    folder: Path


class BaseModels:
    """Lists, finds and deletes base models."""

    def __init__(self, store: Store, clock: Clock, models: locate.Models) -> None:
        self._store, self._clock, self._models = store, clock, models

    async def all(self) -> list[base_model_pb2.BaseModel]:
        """List every base model, by name."""
        return [found.message for found in await asyncio.to_thread(self._scan)]

    async def get(self, name: str) -> base_model_pb2.BaseModel:
        """Find the base model of a name, hub id or hub id@revision.

        Raises NotFound MODEL_NOT_FOUND, InvalidArgument MODEL_AMBIGUOUS.
        """
        return _pick(await asyncio.to_thread(self._scan), name).message

    async def delete(self, name: str, key: RequestKey) -> base_model_pb2.BaseModel:
        """Delete a base model, and return it; a repeated request, by its key, gets the same answer.

        Raises what `get` raises, FailedPrecondition MODEL_IN_USE and MODEL_NOT_OURS, AlreadyExists REQUEST_ID_REUSED.
        """
        answered = await self._store.read(lambda connection: request_ids.find(connection, key))
        if answered is not None:
            return base_model_pb2.BaseModel.FromString(answered.reply)
        found = _pick(await asyncio.to_thread(self._scan), name)
        if found.message.origin == base_model_pb2.BASE_MODEL_ORIGIN_PATH:
            text = f"{found.message.name} is under one of the operator's model roots; remove it there."
            raise FailedPrecondition("MODEL_NOT_OURS", text, violations=[(found.message.name, text, "MODEL_NOT_OURS")])
        await uninterrupted(self._remove(found, key))
        return found.message

    async def _remove(self, found: FoundModel, key: RequestKey) -> None:
        trash = self._models.folder / f".{uuid7()}.deleted"
        now = self._clock()

        def work(connection: Connection) -> None:
            # This thread creates the jobs, too: none that needs the model can be created in between.
            self._require_unused(connection, found)
            reply = found.message.SerializeToString()
            if request_ids.claim(connection, key, found.message.name, now=now, reply=reply) is not None:
                return
            if found.folder.exists():
                found.folder.rename(trash)

        await self._store.write(work)
        await asyncio.to_thread(_clear, trash, found.folder.parent)

    def _require_unused(self, connection: Connection, found: FoundModel) -> None:
        for row in jobs.in_states(connection, states.LIVE):
            record = job_pb2.Job.FromString(row.record)
            preparing = record.WhichOneof("task") == "prepare"
            source = locate.model_of(record)
            if source.WhichOneof("source") is None:
                continue
            try:
                model = self._models.relocate(source, record.base)
            except DomainError:
                continue
            if model.folder == found.folder or (preparing and model.home == found.folder.parent):
                text = f"{row.name} needs {found.message.name}; wait for it or cancel it."
                violations = [(row.name, text, "MODEL_IN_USE")]
                raise FailedPrecondition("MODEL_IN_USE", text, metadata={"job": row.name}, violations=violations)

    def _scan(self) -> list[FoundModel]:
        found = [*self._of_wheels(), *self._of_hub(), *self._under_roots()]
        return sorted(found, key=lambda item: item.message.name)

    def _of_wheels(self) -> Iterator[FoundModel]:
        for known in locate.KNOWN:
            folder = self._models.folder / known.name
            if (folder / "config.json").is_file():
                source = model_pb2.ModelSource(name=known.name)
                yield _found(
                    folder, known.name, source, origin=base_model_pb2.BASE_MODEL_ORIGIN_WHEEL, hub_id=known.hub_id
                )

    def _of_hub(self) -> Iterator[FoundModel]:
        for home in _folders(self._models.folder / "hub"):
            refs = hub.refs(home)
            for folder in _folders(home):
                commit = folder.name.removeprefix(".").removesuffix(_PARTIAL)
                if not hub.COMMIT.fullmatch(commit):
                    continue
                hub_id = str(json_object(folder / "manifest.json").get("hub_id", "")) or home.name.replace("--", "/", 1)
                source = model_pb2.ModelSource(hub=model_pb2.HubModel(id=hub_id, revision=commit))
                name = f"{home.name}@{commit}"
                found = _found(folder, name, source, origin=base_model_pb2.BASE_MODEL_ORIGIN_HUB, hub_id=hub_id)
                found.message.revision = commit
                found.message.refs.extend(sorted(ref for ref, known in refs.items() if known == commit))
                yield found

    def _under_roots(self) -> Iterator[FoundModel]:
        seen: set[str] = set()
        for root in self._models.roots:
            for folder in _folders(Path(root).expanduser()):
                if folder.name not in seen and (folder / "config.json").is_file():
                    seen.add(folder.name)
                    source = model_pb2.ModelSource(path=folder.name)
                    hub_id = locate.hub_id_in(folder / "config.json")
                    name = f"path:{folder.name}"
                    yield _found(folder, name, source, origin=base_model_pb2.BASE_MODEL_ORIGIN_PATH, hub_id=hub_id)


def _pick(found: list[FoundModel], name: str) -> FoundModel:
    wanted = name.removeprefix(COLLECTION)
    matching = [item for item in found if item.message.name == COLLECTION + wanted] or [
        item for item in found if _matches(item.message, wanted)
    ]
    if len(matching) == 1:
        return matching[0]
    if matching:
        names = ", ".join(item.message.name for item in matching)
        text = f"name: {name[:80]!r} can be any of {names}; name one of them."
        raise InvalidArgument("MODEL_AMBIGUOUS", text, violations=[("name", text, "MODEL_AMBIGUOUS")])
    known = [known for item in found for known in (item.message.name, item.message.hub_id) if known]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else "list the base models to see those that exist."
    raise NotFound(
        "MODEL_NOT_FOUND",
        f"name: this server has no base model {name[:80]!r}; {hint}",
        metadata={"near": ",".join(near)},
    )


def _matches(model: base_model_pb2.BaseModel, wanted: str) -> bool:
    hub_id, _, revision = wanted.partition("@")
    if not model.hub_id or model.hub_id.lower() != hub_id.lower():
        return False
    begins = len(revision) >= 7 and model.revision.startswith(revision)
    return not revision or revision in model.refs or begins


def _found(
    folder: Path,
    name: str,
    source: model_pb2.ModelSource,
    *,
    origin: base_model_pb2.BaseModelOrigin.ValueType,
    hub_id: str,
) -> FoundModel:
    config = json_object(folder / "config.json")
    text = config.get("text_config")
    partial = folder.name.endswith(_PARTIAL)
    message = base_model_pb2.BaseModel(
        name=COLLECTION + name,
        origin=origin,
        state=base_model_pb2.BASE_MODEL_STATE_PARTIAL if partial else base_model_pb2.BASE_MODEL_STATE_READY,
        source=source,
        hub_id=hub_id,
        revision=str(json_object(folder / "manifest.json").get("revision", "")),
        size_bytes=_size(folder),
        model_type=str(config.get("model_type", "")),
        max_positions=locate.positions_in(config),
        vocab_size=_positive_int(config.get("vocab_size"))
        or _positive_int(text.get("vocab_size") if isinstance(text, dict) else 0),
        create_time=timestamp(folder.stat().st_mtime_ns // 1000),
    )
    return FoundModel(message, folder)


def _positive_int(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # a download in progress has just renamed it
    return total


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir())
    except OSError:
        return []


def _clear(trash: Path, parent: Path) -> None:
    """Remove deleted models, and a hub repository's folder when its last commit is gone."""
    for folder in trash.parent.glob(".*.deleted"):  # also those of a trainer that was killed
        shutil.rmtree(folder, ignore_errors=True)
    if parent.parent.name == "hub" and not _folders(parent):
        shutil.rmtree(parent, ignore_errors=True)
