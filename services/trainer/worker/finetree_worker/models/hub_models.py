# SPDX-License-Identifier: Apache-2.0
"""Base models of a hub: looked up, checked and downloaded into the cache."""

import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from finetree_api.trainer.v1 import event_pb2, job_pb2

from finetree_worker.atomic_files import storage_errors
from finetree_worker.control import Control, Steering
from finetree_worker.errors import ModelError, StorageError
from finetree_worker.events.envelope import Reporter
from finetree_worker.models import checks
from finetree_worker.models.hub import Access, Client, Entry, HubError, Repository, online
from finetree_worker.models.hub_cache import HubCache
from finetree_worker.models.portable_files import IMAGE_SETTINGS
from finetree_worker.plan import BaseModel

ORIGIN = "hub:"
"""Prefix of a model's origin on a hub: "hub:{id}@{revision}"."""
DEFAULT_REVISION = "main"
SMALL = frozenset(
    {
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
        *("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "spiece.model"),
        *("chat_template.jinja", "chat_template.json", checks.INDEX),
        *IMAGE_SETTINGS,
    }
)
"""Files of a model and its tokenizer besides the weights; none of them is code."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NOT_WEIGHTS = re.compile(r"^(consolidated|adapter_model)")  # the same weights in another library's names; an adapter
_PROGRESS_STEPS = 100  # progress events of a download at most


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository, and a commit, tag or branch of it."""

    id: str
    revision: str = DEFAULT_REVISION

    @classmethod
    def parse(cls, origin: str) -> "HubSource":
        """Read a model's origin."""
        repository, _, revision = origin.removeprefix(ORIGIN).partition("@")
        return cls(repository, revision or DEFAULT_REVISION)


def prepare_hub_model(origin: str, home: Path, access: Access, *, reporter: Reporter, control: Control) -> BaseModel:
    """Download the model of `origin` unless it is there, into a folder below `home` that is named by its commit.

    Raises ModelError (MODEL_GATED, MODEL_NOT_FOUND, MODEL_REVISION_NOT_FOUND, MODEL_PICKLED, MODEL_REMOTE_CODE and the
    others of `checks`), HubError (HUB_UNREACHABLE, HUB_OFFLINE, MODEL_CORRUPT), StorageError, Cancelled.
    """
    steering = Steering(control)
    steering.stop_here()
    source = HubSource.parse(origin)
    reporter.emit(_progress(0.0), message=f"Looking for {source.id}")
    cache = HubCache(home)
    cache.make()
    with cache.lock(steering), online(access.proxy):
        if (commit := _cached(source, cache, access)) is None:
            commit = _download(source, cache, access, reporter=reporter, steering=steering)
    reporter.emit(_progress(1.0), message="The model is ready")
    return BaseModel(home / commit, hub_id=cache.hub_id(commit) or source.id, revision=commit)


def _cached(source: HubSource, cache: HubCache, access: Access) -> str | None:
    """Return the commit where the hub need not be asked: one that is named by its hash, or any offline."""
    commit = source.revision if _COMMIT.fullmatch(source.revision) else None
    if commit is None and access.offline:
        commit = cache.commit_of(source.revision)
    return commit if commit is not None and cache.holds(commit) else None


def _download(source: HubSource, cache: HubCache, access: Access, *, reporter: Reporter, steering: Steering) -> str:
    client = Client(access, source.id, source.revision)
    try:
        repository = client.repository()
    except HubError as error:
        known = cache.commit_of(source.revision)
        if not known or not cache.holds(known):
            raise
        text = f"{error.message} The run uses the model as last downloaded, at commit {known[:12]}."
        reporter.emit(event_pb2.Alert(code="MODEL_REVISION_NOT_CHECKED", message=text))
        return known
    if not cache.holds(repository.commit):
        with cache.draft(repository.commit) as draft:
            _Download(client, repository, draft, reporter=reporter, steering=steering).run(access.reserve_bytes)
            cache.publish(draft, repository)
    cache.set_commit(source.revision, repository.commit)
    return repository.commit


class _Download:
    """Download of a repository into its draft folder."""

    def __init__(
        self, client: Client, repository: Repository, draft: Path, *, reporter: Reporter, steering: Steering
    ) -> None:
        self._client, self._repository, self._draft = client, repository, draft
        self._reporter, self._steering = reporter, steering
        self._small, self._weights = choose(repository)
        self._total = sum(entry.size for entry in (self._small | self._weights).values())
        self._done, self._reported = 0, -1.0

    def run(self, reserve_bytes: int) -> None:
        """Download all files, the small ones first: they may show that the model cannot be trained."""
        self._require_space(reserve_bytes)
        with storage_errors():
            self._draft.mkdir(parents=True, exist_ok=True)
        for name, entry in sorted(self._small.items()):
            self._file(name, entry)
        checks.check_config(self._draft)
        for name, entry in sorted(self._weights.items()):
            self._file(name, entry)
        checks.check_weights(self._draft)

    def _file(self, name: str, entry: Entry) -> None:
        target, part = self._draft / name, self._draft / f"{name}.part"
        if not target.is_file():
            with suppress(OSError):
                self._advance(part.stat().st_size)
            self._client.download(name, part, commit=self._repository.commit, size=entry.size, on_bytes=self._advance)
            with storage_errors():
                part.replace(target)
        else:
            self._advance(entry.size)

    def _advance(self, count: int) -> None:
        self._steering.stop_here()
        self._done += count
        fraction = self._done / self._total if self._total else 1.0
        if fraction - self._reported >= 1 / _PROGRESS_STEPS or (self._reported < 1 <= fraction):
            self._reported = fraction
            text = f"Downloading {self._repository.id}: {_size(self._done)} of {_size(self._total)}"
            self._reporter.emit(_progress(min(fraction, 1.0), done=self._done, total=self._total), message=text)

    def _require_space(self, reserve_bytes: int) -> None:
        present = sum(path.stat().st_size for path in self._draft.glob("*")) if self._draft.is_dir() else 0
        needed, free = max(0, self._total - present), shutil.disk_usage(self._draft.parent).free
        if needed + reserve_bytes > free:
            raise SpaceError(needed, free, reserve_bytes)


def _progress(fraction: float, *, done: int = 0, total: int = 0) -> event_pb2.PhaseProgress:
    """Return the progress of a download; `done` of `total` in bytes, 0 where they are not known."""
    unit = event_pb2.PROGRESS_UNIT_BYTES if total else event_pb2.PROGRESS_UNIT_UNSPECIFIED
    phase = job_pb2.JOB_PHASE_DOWNLOAD_MODEL
    return event_pb2.PhaseProgress(phase=phase, fraction=fraction, done=done, total=total, unit=unit)


class SpaceError(StorageError):
    """The model does not fit on the disk; nothing was written, and another try needs free space first."""

    retryable = False

    def __init__(self, needed: int, free: int, reserve_bytes: int) -> None:
        super().__init__(
            "DISK_FULL",
            f"The model needs {_size(needed)} more, and {_size(free)} are free on the disk of the trainer's data, "
            f"of which {_size(reserve_bytes)} must stay free.",
            field="model",
            remedy="Free space (`finetree models rm` removes models), then start the job again.",
        )


def choose(repository: Repository) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """Return the small files and the weights to download, by name.

    Only files at the top count: folders hold the model for other programs. Raises ModelError: MODEL_IS_ADAPTER,
    MODEL_INCOMPLETE, MODEL_PICKLED.
    """
    files = repository.files
    if "config.json" not in files:
        if "adapter_config.json" in files:
            text = "is an adapter, not a base model"
            raise _unfit(repository, "MODEL_IS_ADAPTER", text, remedy="Name its base model.")
        text = "has no config.json, so it is not a model of transformers"
        raise _unfit(repository, "MODEL_INCOMPLETE", text, remedy="Name a repository in the transformers format.")
    if checks.INDEX in files:
        weights = [name for name in files if name.endswith(".safetensors") and not _NOT_WEIGHTS.match(name)]
    else:
        weights = ["model.safetensors"] if "model.safetensors" in files else []
    chosen = {name: files[name] for name in weights if "/" not in name}
    if not chosen:
        if pickled := sorted(name for name in files if name.endswith(checks.PICKLED)):
            raise checks.pickled_weights(repository.id, pickled)
        text = "has no safetensors weights"
        raise _unfit(repository, "MODEL_INCOMPLETE", text, remedy="Name a repository that has them.")
    return {name: files[name] for name in files if name in SMALL}, chosen


def _unfit(repository: Repository, reason: str, text: str, *, remedy: str) -> ModelError:
    return ModelError(reason, f"The model {repository.id!r} {text}.", field="model.hub", remedy=remedy)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 10**7 else f"{count / 1e3:.1f} kB"
