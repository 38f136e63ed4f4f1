# SPDX-License-Identifier: Apache-2.0
"""Client of a model hub: the files of a repository at a commit, and downloads that resume.

It uses `huggingface_hub`, whose own download starts an interrupted file again from the beginning (2.4.0 writes to a
file of a random name and removes it); so files are streamed with its `http_get` and appended to a file with a fixed
name.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from huggingface_hub import HfApi, close_session, constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]  # of its HTTP library
from huggingface_hub.file_download import http_get

from finetree_worker.atomic_files import storage_errors
from finetree_worker.errors import Category, ModelError, TaskError

RESOLVE_SECONDS = 20.0
"""Longest time to wait for the list of a repository's files."""
CHUNK_BYTES = 1024**2
"""Bytes between two polls for a stop, and the most that an interruption loses (huggingface_hub's default: 10 MB)."""
_FIELD = "model.hub"


@dataclass(frozen=True, slots=True)
class Access:
    """Access to a hub: address, token and proxy; `reserve_bytes` stay free on the disk."""

    endpoint: str
    token: str = field(default="", repr=False)
    offline: bool = False
    reserve_bytes: int = 0
    proxy: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a repository; `sha256` is empty and `size` 0 where the hub does not list them."""

    size: int
    sha256: str = ""


_LICENSE = "license:"


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at a commit; `id` is the hub's own spelling."""

    id: str
    commit: str
    files: dict[str, Entry]
    license: str = ""
    """As its tag says; empty without one."""


class HubError(TaskError):
    """The hub cannot be reached, or its answer is not a hub's; another try may succeed."""

    category = Category.SYSTEM
    retryable = True


class Client:
    """Client of a hub for one repository. Every call raises ModelError (MODEL_GATED, MODEL_NOT_FOUND) and HubError."""

    def __init__(self, access: Access, repository: str, revision: str) -> None:
        self._access, self._id, self._revision = access, repository, revision
        # False, not None: a token in the machine's own folders is not the service's.
        self._token: str | bool = access.token or False

    def repository(self) -> Repository:
        """Return the files at the revision. Also raises HubError HUB_OFFLINE, ModelError MODEL_REVISION_NOT_FOUND."""
        if self._access.offline:
            raise HubOfflineError(self._id)
        api = HfApi(endpoint=self._access.endpoint, token=self._token)
        with self._errors():
            info = api.model_info(
                self._id, revision=self._revision, files_metadata=True, timeout=RESOLVE_SECONDS, token=self._token
            )
        files = {
            item.rfilename: Entry(int(item.size or 0), item.lfs.sha256 if item.lfs else "")
            for item in info.siblings or ()
        }
        if not info.sha or not constants.REGEX_COMMIT_OID.fullmatch(info.sha):
            raise HubError("HUB_UNREACHABLE", "The hub does not name the commit of the revision.", field=_FIELD)
        tags = (tag.removeprefix(_LICENSE) for tag in info.tags or () if tag.startswith(_LICENSE))
        return Repository(info.id or self._id, info.sha, files, next(tags, ""))

    def download(self, name: str, target: Path, *, commit: str, size: int, on_bytes: Callable[[int], None]) -> None:
        """Append a file's remaining bytes to `target`. `on_bytes` is called with each piece's size, and may raise."""
        url = hf_hub_url(self._id, name, revision=commit, endpoint=self._access.endpoint)
        with storage_errors(), target.open("ab") as stream:
            present = stream.tell()
            if not size or present > size:
                stream.truncate(present := 0)
            with self._errors():
                # Redirects to a content network are followed by the HTTP library, which drops the token there.
                http_get(
                    url,
                    stream,
                    resume_size=present,
                    headers={"authorization": f"Bearer {self._token}"} if self._token else {},
                    expected_size=size or None,
                    displayed_filename=name,
                    tqdm_class=_bar(on_bytes),
                )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the hub's errors into the worker's. Their text is not repeated: it may hold addresses."""
        try:
            yield
        except GatedRepoError as error:
            raise ModelError(
                "MODEL_GATED",
                f"{self._id!r} is gated: its publisher must grant access.",
                field=_FIELD,
                remedy="Accept its conditions on the hub, and give the service that account's token (hub_token).",
            ) from error
        except RevisionNotFoundError as error:
            raise ModelError(
                "MODEL_REVISION_NOT_FOUND",
                f"{self._id!r} has no revision {self._revision!r}.",
                field=f"{_FIELD}.revision",
                remedy="Name a commit, tag or branch of the repository, or leave the revision unset.",
            ) from error
        except (RepositoryNotFoundError, HFValidationError) as error:
            raise self._absent() from error
        except RemoteEntryNotFoundError as error:
            raise HubError("HUB_UNREACHABLE", "A file that the hub lists is missing.", field=_FIELD) from error
        except OfflineModeIsEnabled as error:
            raise HubOfflineError(self._id) from error
        except HfHubHTTPError as error:
            raise self._refused(error.response.status_code) from error
        except TransportError as error:
            raise _unreachable(type(error).__name__) from error
        except OSError as error:
            if error.errno is None:  # a file that ended early, in http_get's words
                raise _unreachable("the file ended early") from error
            raise

    def _refused(self, status: int) -> TaskError:
        if status in (401, 403):
            return ModelError(
                "MODEL_GATED",
                f"The hub denies this service access to {self._id!r} ({status}).",
                field=_FIELD,
                remedy="Give the service a token that may read it (hub_token).",
            )
        return self._absent() if status == 404 else _unreachable(f"it answers {status}")

    def _absent(self) -> ModelError:
        return ModelError(
            "MODEL_NOT_FOUND",
            f"The hub has no model {self._id!r}, or does not show it to this service.",
            field=f"{_FIELD}.id",
            remedy="Check the id (organization/name); for a private model, give the service a token (hub_token).",
        )


class HubOfflineError(HubError):
    """Downloads are turned off."""

    retryable = False

    def __init__(self, model: str) -> None:
        super().__init__(
            "HUB_OFFLINE",
            f"{model!r} is not on this machine, and downloads are turned off (hub_offline).",
            field=_FIELD,
            remedy="Put the model under a model root, or turn hub_offline off.",
        )


def _unreachable(why: str) -> HubError:
    return HubError(
        "HUB_UNREACHABLE",
        f"The hub cannot be reached ({why}).",
        field=_FIELD,
        remedy="Check the service's network and hub_endpoint; starting the job again resumes the download.",
    )


@contextmanager
def online(proxy: str = "") -> Iterator[None]:
    """Let `huggingface_hub` use the network within the block: a worker's libraries are offline otherwise.

    Over HTTP only: its other protocol (Xet) cannot resume a file.
    """
    names = ("HTTP_PROXY", "HTTPS_PROXY") if proxy else ()
    proxies = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, proxy))
    close_session()  # its client reads the environment once
    wanted = {"HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "DOWNLOAD_CHUNK_SIZE": CHUNK_BYTES}
    before = {name: getattr(constants, name) for name in wanted}
    try:
        for name, value in wanted.items():
            setattr(constants, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(constants, name, value)
        for name, old in proxies.items():
            os.environ.pop(name)
            if old is not None:
                os.environ[name] = old
        close_session()


def _bar(on_bytes: Callable[[int], None]) -> Any:
    """Return a progress bar for http_get that draws nothing and calls `on_bytes`."""

    class Bar:
        def __init__(self, *_arguments: Any, **_options: Any) -> None:
            pass

        def update(self, count: float | None = 1) -> None:
            on_bytes(int(count or 0))

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_error: object) -> None:
            pass

    return Bar
