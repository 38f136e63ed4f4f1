# SPDX-License-Identifier: Apache-2.0
"""A model hub as the target of a push: a repository, private unless said otherwise, and one commit of what it lacks.

What is there already is not sent again: files of the branch are compared by hash first, and the hub's own upload of
large files (preupload, then one commit) skips those that an interrupted push has sent. Blocking.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from finetree.errors import (
    FailedPrecondition,
    FinetreeError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

DEFAULT_ENDPOINT = "https://huggingface.co"
DEFAULT_REVISION = "main"
LOOPBACK = frozenset(("127.0.0.1", "localhost", "::1"))
"""Hosts that may be asked without TLS."""
_BLOCK = 1 << 20
_ONE_AT_A_TIME = threading.Lock()
"""Held by a push: the library's protocol, its bars and its warnings are settings of the process."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a push goes."""

    repository: str
    """"organization/name"."""
    revision: str = DEFAULT_REVISION
    """Branch."""
    public: bool = False
    endpoint: str = DEFAULT_ENDPOINT
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class PushedArtifact:
    """An artifact on a model hub, and what the push has done.

    Attributes:
        repository: "organization/name".
        revision: branch.
        commit: id of the commit that has all files.
        commit_url: page of the commit.
        uploaded: files that the branch lacked; empty: it had all of them, and no commit was made.
        private: whether only members may read the repository.
        artifact: resource name of the artifact.
        files: how many files the artifact has.
    """

    repository: str
    revision: str
    commit: str
    commit_url: str
    uploaded: tuple[str, ...]
    private: bool
    artifact: str
    files: int


def push(target: Target, files: Mapping[str, Path | bytes], *, artifact: str, message: str) -> PushedArtifact:
    """Make a repository have `files` (path in it to file or content), and return its commit.

    Raises:
        InvalidArgument: The address is not one of TLS (PUSH_ADDRESS_INVALID); the repository is public, and public was
            not asked for (PUSH_WOULD_PUBLISH); the hub does not accept a file (PUSH_REFUSED).
        FailedPrecondition: huggingface_hub is not installed (PUSH_NOT_INSTALLED); a file of `files` cannot be read
            (PUSH_FILE_UNREADABLE).
        FinetreeError: The hub refuses, or does not answer (PUSH_REFUSED).
    """
    with _ONE_AT_A_TIME, _refusals(target), _settings(target):
        for content in files.values():
            if not isinstance(content, bytes):
                # The library's own complaint holds the whole path, and comes when the repository is made.
                content.open("rb").close()
        api = _api(target)
        private = _repository(api, target)
        known = _known(api, target)
        missing = {path: content for path, content in files.items() if not _same(content, known.get(path))}
        if missing:
            commit, url = _commit(api, target, missing, message)
        else:
            commit = api.repo_info(target.repository, revision=target.revision).sha or ""
            url = f"{target.endpoint}/{target.repository}/commit/{commit}"
    sent = tuple(sorted(missing))
    return PushedArtifact(target.repository, target.revision, commit, url, sent, private, artifact, len(files))


def check(target: Target) -> None:
    """Refuse an address to which no token is sent, and a missing library, before anything is asked."""
    parts = urlsplit(target.endpoint)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        text = "the hub's address (HF_ENDPOINT) must begin with https://: the token is sent there"
        raise InvalidArgument(text, reason="PUSH_ADDRESS_INVALID")
    if importlib.util.find_spec("huggingface_hub") is None:
        text = "huggingface_hub is not installed: pip install 'finetree[push]'"
        raise FailedPrecondition(text, reason="PUSH_NOT_INSTALLED")


def _api(target: Target) -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(endpoint=target.endpoint, token=target.token, library_name="finetree")


def _commit(api: HfApi, target: Target, missing: Mapping[str, Path | bytes], message: str) -> tuple[str, str]:
    """Send files as one commit; return its id and its page."""
    from huggingface_hub import CommitOperationAdd

    additions = [
        CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
        for path, content in sorted(missing.items())
    ]
    made = api.create_commit(
        target.repository, additions, commit_message=message, revision=target.revision, num_threads=2
    )
    return made.oid, made.commit_url


def _repository(api: HfApi, target: Target) -> bool:
    """Make the repository and the branch where they are not there; return whether the repository is private."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        private = bool(api.repo_info(target.repository).private)
    except RepositoryNotFoundError:
        api.create_repo(target.repository, private=not target.public, exist_ok=True)
        private = bool(api.repo_info(target.repository).private)
    if not private and not target.public:
        text = f"{target.repository} is a public repository, and public was not asked for"
        raise InvalidArgument(text, reason="PUSH_WOULD_PUBLISH")
    if target.revision != DEFAULT_REVISION:
        api.create_branch(target.repository, branch=target.revision, exist_ok=True)
    return private


@dataclass(frozen=True, slots=True)
class _Known:
    """A file of the branch: SHA-256 of a large one, the git hash of another."""

    size: int
    sha256: str
    blob: str


def _known(api: HfApi, target: Target) -> dict[str, _Known]:
    from huggingface_hub.hf_api import RepoFile

    listed = api.list_repo_tree(target.repository, recursive=True, revision=target.revision)
    files = (item for item in listed if isinstance(item, RepoFile))
    return {each.path: _Known(each.size, each.lfs.sha256 if each.lfs else "", each.blob_id) for each in files}


def _same(content: Path | bytes, known: _Known | None) -> bool:
    """Whether a file of the branch has this content."""
    if known is None:
        return False
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if size != known.size:
        return False
    if known.sha256:
        return _digest(hashlib.sha256(), content) == known.sha256
    return _digest(hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), content) == known.blob


def _digest(digest: hashlib._Hash, content: Path | bytes) -> str:
    if isinstance(content, bytes):
        digest.update(content)
        return digest.hexdigest()
    with content.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _settings(target: Target) -> Iterator[None]:
    """Have the library be quiet, and send large files by git's LFS protocol where the hub is another than its own.

    huggingface.co's own protocol is Xet. What is changed is the process's, and put back.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    xet, verbosity, quiet = constants.HF_HUB_DISABLE_XET, hub_logging.get_verbosity(), are_progress_bars_disabled()
    constants.HF_HUB_DISABLE_XET = xet or target.endpoint != DEFAULT_ENDPOINT
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # the library leaves it untyped
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            # The library's own, and what the hub remarks about the card: no reason to fail.
            warnings.simplefilter("ignore")
            yield
    finally:
        constants.HF_HUB_DISABLE_XET = xet
        hub_logging.set_verbosity(verbosity)
        if not quiet:
            enable_progress_bars()


@contextlib.contextmanager
def _refusals(target: Target) -> Iterator[None]:
    """Turn what the hub's library raises into our errors. Its texts are not repeated: they may hold addresses."""
    from huggingface_hub.errors import HfHubHTTPError

    host = urlsplit(target.endpoint).hostname
    try:
        yield
    except HfHubHTTPError as error:
        raise _refused(target, error.response.status_code, error.server_message or "") from None
    except KeyError:
        raise Unavailable(f"{host} does not answer as a model hub", reason="PUSH_REFUSED") from None
    except ValueError as error:
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        text = f"{host} or its library does not accept it: {said}"
        raise InvalidArgument(text, reason="PUSH_REFUSED") from None
    except (OSError, RuntimeError) as error:
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError):
            raise _refused(target, cause.response.status_code, cause.server_message or "") from None
        for each in (error, cause):
            # The system names the file of a call that failed; what breaks of a connection has none.
            if isinstance(each, OSError) and isinstance(each.filename, str):
                raise _unreadable(each) from None
        text = f"{host}: the connection broke ({type(cause or error).__name__}); {_AGAIN}"
        raise Unavailable(text, reason="PUSH_REFUSED") from None
    except Exception as error:
        # The HTTP library's own errors, whichever library the hub's client uses.
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore", "requests", "urllib3"):
            raise
        text = f"{host}: the connection broke ({type(error).__name__}); {_AGAIN}"
        raise Unavailable(text, reason="PUSH_REFUSED") from None


def _unreadable(error: OSError) -> FailedPrecondition:
    name, why = Path(error.filename).name, error.strerror or type(error).__name__
    text = f"{name} of the fetched artifact cannot be read on this machine ({why}); push again: it is fetched anew"
    return FailedPrecondition(text, reason="PUSH_FILE_UNREADABLE")


_AGAIN = "push again: what has arrived is not sent again"
_REFUSED: Mapping[int, tuple[type[FinetreeError], str]] = {
    401: (Unauthenticated, "give a token with the right to write"),
    403: (PermissionDenied, "take a token with the right to write to that organization"),
    404: (NotFound, "check the name of the repository and the rights of the token"),
    429: (ResourceExhausted, f"wait, then {_AGAIN}"),
}
"""Error and remedy by the status that a hub answers with."""


def _refused(target: Target, status: int, said: str) -> FinetreeError:
    host = urlsplit(target.endpoint).hostname
    text = f"{host} refuses to change {target.repository}: {status}{f' {said.splitlines()[0][:200]}' if said else ''}"
    kind, remedy = _REFUSED.get(status, (Unavailable, _AGAIN))
    return kind(f"{text}; {remedy}", reason="PUSH_REFUSED")
