# SPDX-License-Identifier: Apache-2.0
"""A model hub: what a repository holds at a commit, and its files, gone on with where a cut download stopped.

`huggingface_hub` speaks to it. Its own download starts a cut file again from the beginning (2.4.0 writes to a file of a
random name and removes it), so files are streamed with its `http_get` onto a file of ours, from where that ends.
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
"""Longest time to wait for the answer of what a repository holds."""
CHUNK_BYTES = 1024**2
"""Bytes between two looks at whether to stop, and what a cut download loses at most (huggingface_hub's own: 10 MB)."""
_FIELD = "model.hub"


@dataclass(frozen=True, slots=True)
class Access:
    """Where models are downloaded from, with what right and by what way; `reserve` bytes stay free on the disk."""

    endpoint: str
    token: str = field(default="", repr=False)
    offline: bool = False
    reserve: int = 0
    proxy: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a repository; `sha256` is empty and `size` 0 where the hub does not tell them."""

    size: int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at a commit, under the name that the hub itself gives it."""

    id: str
    commit: str
    files: dict[str, Entry]


class HubError(TaskError):
    """The hub cannot be reached, or does not answer as a hub does; another try may go better."""

    category = Category.SYSTEM
    retryable = True


class Client:
    """One hub for one repository. Every call raises ModelError (MODEL_GATED, MODEL_NOT_FOUND) and HubError."""

    def __init__(self, access: Access, repository: str, revision: str) -> None:
        self._access, self._id, self._revision = access, repository, revision
        # False, not None: a token that somebody left in the machine's own folders is not the service's.
        self._token: str | bool = access.token or False

    def look(self) -> Repository:
        """What the repository holds at the revision. Also raises HubError HUB_OFFLINE, MODEL_REVISION_NOT_FOUND."""
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
            raise HubError("HUB_UNREACHABLE", "The hub does not say which commit the revision is.", field=_FIELD)
        return Repository(info.id or self._id, info.sha, files)

    def fetch(self, name: str, commit: str, target: Path, size: int, on_bytes: Callable[[int], None]) -> None:
        """Bring a file's bytes to `target`, from where that ends. `on_bytes` gets each piece's size, and may raise."""
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
        """Give the hub's refusals names of ours. What it says itself is not repeated: it may hold addresses."""
        try:
            yield
        except GatedRepoError as error:
            raise ModelError(
                "MODEL_GATED",
                f"{self._id!r} is gated: its publisher must grant access first.",
                field=_FIELD,
                remedy="Accept its conditions on the hub, and give the service that account's token (hub_token).",
            ) from error
        except RevisionNotFoundError as error:
            raise ModelError(
                "MODEL_REVISION_NOT_FOUND",
                f"{self._id!r} has no revision {self._revision!r}.",
                field=f"{_FIELD}.revision",
                remedy="Name a commit, tag or branch of the repository, or leave the revision out.",
            ) from error
        except (RepositoryNotFoundError, HFValidationError) as error:
            raise self._absent() from error
        except RemoteEntryNotFoundError as error:
            raise HubError("HUB_UNREACHABLE", "The hub lists a file that it does not have.", field=_FIELD) from error
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
                f"The hub refuses {self._id!r} to this service ({status}).",
                field=_FIELD,
                remedy="Give the service a token that may read it (hub_token).",
            )
        return self._absent() if status == 404 else _unreachable(f"it answers {status}")

    def _absent(self) -> ModelError:
        return ModelError(
            "MODEL_NOT_FOUND",
            f"The hub has no model {self._id!r} that this service may see.",
            field=f"{_FIELD}.id",
            remedy="Check the id (organisation/name); for a private model, give the service a token (hub_token).",
        )


class HubOfflineError(HubError):
    """The service was told not to download anything."""

    retryable = False

    def __init__(self, model: str) -> None:
        super().__init__(
            "HUB_OFFLINE",
            f"{model!r} is not here, and this service downloads nothing (hub_offline).",
            field=_FIELD,
            remedy="Put the model under a model root, or let the service download.",
        )


def _unreachable(why: str) -> HubError:
    return HubError(
        "HUB_UNREACHABLE",
        f"The hub cannot be reached ({why}).",
        field=_FIELD,
        remedy="Check the service's network and hub_endpoint; the same job later goes on where this one stopped.",
    )


@contextmanager
def online(proxy: str = "") -> Iterator[None]:
    """Let `huggingface_hub` use the network within the block: a worker's libraries are offline otherwise.

    Plain HTTP only: the other way of its downloads (Xet) cannot go on with a file that was cut.
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
    """What http_get takes for a progress bar: it draws nothing and hands the bytes on."""

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
