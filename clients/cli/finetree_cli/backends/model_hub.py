# SPDX-License-Identifier: Apache-2.0
"""A model hub as the target of a push: a repository, private unless said otherwise, and one commit of what it lacks.

What is there already is not sent again: files of the branch are compared by hash first, and the hub's own upload of
large files (preupload, then one commit) skips those that an interrupted push has sent.
"""

import contextlib
import hashlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from finetree_cli.errors import BadInput, NotAvailable

if TYPE_CHECKING:
    from pathlib import Path

    from huggingface_hub import HfApi

DEFAULT_ENDPOINT = "https://huggingface.co"
DEFAULT_REVISION = "main"
LOOPBACK = frozenset(("127.0.0.1", "localhost", "::1"))
"""Hosts that may be asked without TLS."""
_BLOCK = 1 << 20


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
class Pushed:
    """What a push has done."""

    commit: str
    commit_url: str
    uploaded: tuple[str, ...]
    """Files that the branch lacked; empty: it had all of them, and no commit was made."""
    private: bool


def push(target: Target, files: "Mapping[str, Path | bytes]", *, message: str) -> Pushed:
    """Make a repository have `files` (path in it to file or content), and return its commit.

    Raises:
        BadInput: The address is not one of TLS; the repository is public, and public was not asked for.
        NotAvailable: huggingface_hub is not installed (PUSH_NOT_INSTALLED); the hub refuses, or does not answer
            (PUSH_REFUSED).
    """
    parts = urlsplit(target.endpoint)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise BadInput("HF_ENDPOINT must begin with https://: the token is sent there", reason="PUSH_ADDRESS_INVALID")
    api = _api(target)
    with _refusals(target):
        private = _repository(api, target)
        known = _known(api, target)
        missing = {path: content for path, content in files.items() if not _same(content, known.get(path))}
        if not missing:
            head = api.repo_info(target.repository, revision=target.revision).sha or ""
            return Pushed(head, f"{target.endpoint}/{target.repository}/commit/{head}", (), private)
        from huggingface_hub import CommitOperationAdd

        additions = [
            CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
            for path, content in sorted(missing.items())
        ]
        with warnings.catch_warnings(), _protocol(target):
            # The library's own, and what the hub remarks about the card: no reason to fail.
            warnings.simplefilter("ignore")
            made = api.create_commit(
                target.repository, additions, commit_message=message, revision=target.revision, num_threads=2
            )
    return Pushed(made.oid, made.commit_url, tuple(sorted(missing)), private)


def _api(target: Target) -> "HfApi":
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import logging as hub_logging
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        text = "huggingface_hub is not installed"
        remedy = "pip install 'finetree-cli[push]'"
        raise NotAvailable(text, remedy=remedy, reason="PUSH_NOT_INSTALLED") from error
    disable_progress_bars()
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # the library leaves it untyped
    return HfApi(endpoint=target.endpoint, token=target.token, library_name="finetree")


def _repository(api: "HfApi", target: Target) -> bool:
    """Make the repository and the branch where they are not there; return whether the repository is private."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        private = bool(api.repo_info(target.repository).private)
    except RepositoryNotFoundError:
        api.create_repo(target.repository, private=not target.public, exist_ok=True)
        private = bool(api.repo_info(target.repository).private)
    if not private and not target.public:
        raise BadInput(
            f"{target.repository} is a public repository",
            remedy="add --public if everybody may read it, or name another repository",
            reason="PUSH_WOULD_PUBLISH",
        )
    if target.revision != DEFAULT_REVISION:
        api.create_branch(target.repository, branch=target.revision, exist_ok=True)
    return private


@dataclass(frozen=True, slots=True)
class _Known:
    """A file of the branch: SHA-256 of a large one, the git hash of another."""

    size: int
    sha256: str
    blob: str


def _known(api: "HfApi", target: Target) -> dict[str, _Known]:
    from huggingface_hub.hf_api import RepoFile

    listed = api.list_repo_tree(target.repository, recursive=True, revision=target.revision)
    files = (item for item in listed if isinstance(item, RepoFile))
    return {each.path: _Known(each.size, each.lfs.sha256 if each.lfs else "", each.blob_id) for each in files}


def _same(content: "Path | bytes", known: _Known | None) -> bool:
    """Whether a file of the branch has this content."""
    if known is None:
        return False
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if size != known.size:
        return False
    if known.sha256:
        return _digest(hashlib.sha256(), content) == known.sha256
    return _digest(hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), content) == known.blob


def _digest(digest: "hashlib._Hash", content: "Path | bytes") -> str:
    if isinstance(content, bytes):
        digest.update(content)
        return digest.hexdigest()
    with content.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _protocol(target: Target) -> Iterator[None]:
    """Send large files by git's LFS protocol where the hub is another than huggingface.co, whose own one is Xet."""
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = before or target.endpoint != DEFAULT_ENDPOINT
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before


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
        raise NotAvailable(f"{host} does not answer as a model hub", reason="PUSH_REFUSED") from None
    except ValueError as error:
        text = f"{host} or its library does not accept it: {str(error).splitlines()[0]}"
        raise BadInput(text, reason="PUSH_REFUSED") from None
    except (OSError, RuntimeError) as error:
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError):
            raise _refused(target, cause.response.status_code, cause.server_message or "") from None
        text = f"{host}: the connection broke ({type(cause or error).__name__})"
        raise NotAvailable(text, remedy=_AGAIN, reason="PUSH_REFUSED") from None
    except Exception as error:
        # The HTTP library's own errors, whichever library the hub's client uses.
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore", "requests", "urllib3"):
            raise
        text = f"{host}: the connection broke ({type(error).__name__})"
        raise NotAvailable(text, remedy=_AGAIN, reason="PUSH_REFUSED") from None


_AGAIN = "run the command again: what has arrived is not sent again"


def _refused(target: Target, status: int, said: str) -> NotAvailable:
    host = urlsplit(target.endpoint).hostname
    text = f"{host} refuses to change {target.repository}: {status}{f' {said.splitlines()[0][:200]}' if said else ''}"
    remedy = {
        401: "give a token with the right to write, by the environment variable that --token-env names",
        403: "take a token with the right to write to that organization",
        404: "check the name of the repository and the rights of the token",
        429: "wait, then run the command again: what has arrived is not sent again",
    }.get(status, _AGAIN)
    return NotAvailable(text, remedy=remedy, reason="PUSH_REFUSED")
