# SPDX-License-Identifier: Apache-2.0
"""A place in an object store, by URL: what is put, read, listed and deleted there. All methods block."""

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, LocalStore, ObjectStore, S3Store, from_url

from finetree_data.confinement.own_files import open_own
from finetree_data.objects.errors import (
    ObjectDamagedError,
    ObjectStoreError,
    ObjectStoreRefusedError,
    ObjectStoreUnavailableError,
)

SCHEMES = ("s3", "gs", "az", "file")
PART_BYTES = 8 * 1024 * 1024
"""Bytes of a part of a multipart upload; smaller files are put at once."""
MAX_PARTS = 9_000
"""Parts of the largest file: stores take 10,000."""
PARTS_AT_ONCE = 4
REQUEST_SECONDS = 60
"""Longest time of one request: a part in it is a link of 1.2 Mbit/s."""
CLIENT_OPTIONS = ("allow_http", "allow_invalid_certificates", "proxy_url", "timeout", "connect_timeout", "user_agent")
"""Options that are the connection's, not the store's."""
ENDPOINTS = frozenset({"endpoint", "endpoint_url", "endpoint_url_s3"})
"""Options, with "aws_" before them or not, that name an S3 server."""
_STATUS = re.compile(r"status code: (\d{3})")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9 ._()+@=-]")


class Bucket:
    """A prefix in a bucket of a store, or a folder."""

    def __init__(self, store: ObjectStore, *, signer: ObjectStore | None = None) -> None:
        """Use a store; `signer` is the same one as others reach it, None for by the same name."""
        self._store, self._signer = store, signer or store
        self.stopped: Callable[[], bool] = lambda: False
        """Whether transfers are to end: asked before each part."""

    @classmethod
    def open(cls, url: str, options: Mapping[str, Any], *, link_endpoint: str = "") -> "Bucket":
        """Open a place by its URL; nothing is connected yet. Links name `link_endpoint`, an S3 server's URL, if given.

        Raises ObjectStoreRefusedError URL_INVALID, OPTIONS_INVALID; neither repeats a value.
        """
        try:
            parts = urlsplit(url)
            named = bool(parts.netloc) if parts.scheme != "file" else parts.path.startswith("/")
        except ValueError:
            raise _bad_url("it is no URL") from None
        if parts.scheme not in SCHEMES or not named or parts.query or parts.fragment:
            raise _bad_url("it is not of the form s3://BUCKET/PREFIX, gs://…, az://… or file:///FOLDER")
        if "@" in parts.netloc:
            raise _bad_url("it carries credentials; give those by the environment or the file of options")
        if link_endpoint and parts.scheme != "s3":
            raise ObjectStoreRefusedError("OPTIONS_INVALID", "only links to s3:// can name another endpoint")
        if parts.scheme == "file":
            if not Path(parts.path).is_dir():
                raise ObjectStoreRefusedError("MISSING", "its folder does not exist; make it first")
            return cls(LocalStore(parts.path))
        store = _open(url, options)
        if not link_endpoint:
            return cls(store)
        others = {name: value for name, value in options.items() if name.lower().removeprefix("aws_") not in ENDPOINTS}
        return cls(store, signer=_open(url, others | {"endpoint": link_endpoint}))

    def probe(self) -> None:
        """List, put with create-only twice, and delete: what everything else relies on.

        Raises ObjectStoreRefusedError MISSING, CREDENTIALS, READ_ONLY, UNSUPPORTED; ObjectStoreUnavailableError.
        """
        key = f"probe/{secrets.token_hex(8)}"
        try:
            next(iter(obstore.list(self._store, prefix="probe/")), None)
        except exceptions.BaseError as error:
            raise _of_listing(error) from None
        except OSError:
            raise ObjectStoreRefusedError("MISSING", "the folder cannot be read") from None
        try:
            obstore.put(self._store, key, b"", mode="create")
        except (exceptions.PermissionDeniedError, PermissionError):
            text = "it can be read and not written with these credentials; let them put and delete objects"
            raise ObjectStoreRefusedError("READ_ONLY", text) from None
        except (exceptions.BaseError, OSError) as error:
            raise _of_writing(error) from None
        try:
            if self.create(key, b""):
                text = "it overwrites an object that is to be created only if there is none (If-None-Match)"
                raise ObjectStoreRefusedError("UNSUPPORTED", f"{text}; use a store that keeps this condition")
        finally:
            with suppress(ObjectStoreError):
                self.delete([key])

    def create(self, key: str, content: bytes) -> bool:
        """Put an object unless there is one; return whether it was put. Raises ObjectStoreUnavailableError."""
        try:
            obstore.put(self._store, key, content, mode="create", use_multipart=False)
        except (exceptions.AlreadyExistsError, FileExistsError):
            return False
        except (exceptions.BaseError, OSError) as error:
            raise _unavailable(error) from None
        return True

    def put_file(self, key: str, file: Path, *, name: str, sha256: str, size: int) -> None:
        """Put a file whose hash and size are known. Of one that differs from them nothing becomes visible.

        `name` is what a program that fetches it by a link calls it.

        Raises ObjectDamagedError, ObjectStoreUnavailableError; OSError of the file.
        """
        with open_own(file) as stream:
            parts = _hashed(stream.read, file, sha256=sha256, size=size, stopped=self.stopped)
            attributes = None if isinstance(self._store, LocalStore) else _saved_as(name)
            try:
                if size <= PART_BYTES:
                    obstore.put(self._store, key, b"".join(parts), attributes=attributes, use_multipart=False)
                else:
                    large = max(PART_BYTES, size // MAX_PARTS + 1)
                    obstore.put(
                        self._store,
                        key,
                        parts,
                        attributes=attributes,
                        use_multipart=True,
                        chunk_size=large,
                        max_concurrency=PARTS_AT_ONCE,
                    )
            except (exceptions.BaseError, OSError) as error:
                raise _unavailable(error) from None

    def size(self, key: str) -> int | None:
        """Bytes of an object; None where there is none. Raises ObjectStoreUnavailableError."""
        with _reading() as found:
            found.append(obstore.head(self._store, key)["size"])
        return found[0] if found else None

    def read(self, key: str) -> bytes | None:
        """Content of a small object; None where there is none. Raises ObjectStoreUnavailableError."""
        with _reading() as found:
            found.append(bytes(obstore.get(self._store, key).bytes()))
        return found[0] if found else None

    def fetch_file(self, key: str, file: Path, *, sha256: str, size: int) -> bool:
        """Write an object to a new file and flush it; return False for one that is not there or has another hash.

        Raises ObjectStoreUnavailableError; OSError of the file.
        """
        hashed, count = hashlib.sha256(), 0
        with _reading() as found:
            found.append(obstore.get(self._store, key).stream(min_chunk_size=PART_BYTES))
        if not found:
            return False
        parts = iter(found[0])
        with file.open("xb") as stream:
            while True:
                with _reading() as got:
                    got.append(next(parts, None))
                if not got or got[0] is None:
                    break
                if self.stopped():
                    raise ObjectStoreUnavailableError("the transfer was stopped")
                part = memoryview(got[0])
                hashed.update(part)
                count += len(part)
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        return count == size and hashed.hexdigest() == sha256

    def keys(self, prefix: str) -> list[str]:
        """Keys of the objects below a prefix that ends in a slash. Raises ObjectStoreUnavailableError."""
        with _reading() as found:
            found.extend(each["path"] for batch in obstore.list(self._store, prefix=prefix) for each in batch)
        return found

    def delete(self, keys: list[str]) -> None:
        """Delete objects, those that are not there excepted. Raises ObjectStoreUnavailableError."""
        for key in keys:  # one by one: not every store has the request for many
            with _reading():
                obstore.delete(self._store, key)

    def sign(self, key: str, seconds: int) -> str:
        """Make a URL from which anybody can GET an object for some time. No object is looked for.

        Raises ObjectStoreRefusedError LINKS_UNSUPPORTED, ObjectStoreUnavailableError.
        """
        if not isinstance(self._signer, S3Store | GCSStore | AzureStore):
            raise ObjectStoreRefusedError("LINKS_UNSUPPORTED", "a folder has no links")
        try:
            return obstore.sign(self._signer, "GET", key, timedelta(seconds=seconds))
        except (exceptions.BaseError, OSError) as error:
            # Some credentials sign by a call of their own, which may fail as any other.
            if (status := _status(error)) == 429 or status >= 500:
                raise _unavailable(error) from None
            raise ObjectStoreRefusedError("LINKS_UNSUPPORTED", "its credentials cannot sign links") from None


def _open(url: str, options: Mapping[str, Any]) -> ObjectStore:
    client = {name: options[name] for name in CLIENT_OPTIONS if name in options}
    config: Any = {name: str(value) for name, value in options.items() if name not in CLIENT_OPTIONS}
    usual: Any = {"connect_timeout": "5s", "timeout": f"{REQUEST_SECONDS}s"}
    # Whoever calls tries again, for hours if need be; here a lost packet alone is made up for.
    retry: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}
    try:
        store: ObjectStore = from_url(url, config=config, client_options=usual | client, retry_config=retry)
    except exceptions.UnknownConfigurationKeyError:
        known = "such as endpoint, region, access_key_id and secret_access_key of S3"
        raise ObjectStoreRefusedError(
            "OPTIONS_INVALID", f"an option is not known to this kind of store, {known}"
        ) from None
    except (exceptions.BaseError, TypeError, ValueError):
        raise ObjectStoreRefusedError("OPTIONS_INVALID", "the options do not make a store of this kind") from None
    return store


def _saved_as(name: str) -> dict[str, str]:
    """Attributes of an object that is saved under a name, and never shown, by what fetches it."""
    plain = _NOT_IN_A_NAME.sub("_", PurePosixPath(name).name)
    return {"Content-Disposition": f'attachment; filename="{plain}"'}


def _hashed(
    read: Callable[[int], bytes], file: Path, *, sha256: str, size: int, stopped: Callable[[], bool]
) -> Iterator[bytes]:
    """The parts of a file; where they end in another hash, the last one is never given out."""
    hashed, left = hashlib.sha256(), size
    while left > 0:
        part = read(min(PART_BYTES, left))
        hashed.update(part)
        left -= len(part)
        if not part or (not left and (read(1) or hashed.hexdigest() != sha256)):
            raise ObjectDamagedError(file.name)
        if stopped():
            raise ObjectStoreUnavailableError("the transfer was stopped")
        yield part
    if not size and hashed.hexdigest() != sha256:
        raise ObjectDamagedError(file.name)


@contextmanager
def _reading() -> Iterator[list[Any]]:
    """A list for what is read in the block; it stays empty where there is no such object."""
    found: list[Any] = []
    try:
        yield found
    except (FileNotFoundError, exceptions.NotFoundError):
        return
    except (exceptions.BaseError, OSError) as error:
        raise _unavailable(error) from None


def _status(error: Exception) -> int:
    found = _STATUS.search(str(error))
    return int(found[1]) if found is not None else 0


def _unavailable(error: Exception) -> ObjectStoreUnavailableError:
    status = _status(error)
    why = f"it answered {status}" if status else "it did not answer"
    return ObjectStoreUnavailableError(f"the object store cannot be used now: {why}")


def _bad_url(why: str) -> ObjectStoreRefusedError:
    return ObjectStoreRefusedError("URL_INVALID", why)


def _of_listing(error: Exception) -> ObjectStoreError:
    status = _status(error)
    if status == 404 or isinstance(error, exceptions.NotFoundError):
        return ObjectStoreRefusedError("MISSING", "there is no such bucket; create it, or correct its name")
    if status in (400, 401, 403) or isinstance(
        error, exceptions.UnauthenticatedError | exceptions.PermissionDeniedError
    ):
        text = "it refuses the credentials, or lets them not list; see the environment and the file of options"
        return ObjectStoreRefusedError("CREDENTIALS", text)
    return _unavailable(error)


def _of_writing(error: Exception) -> ObjectStoreError:
    if _status(error) in (400, 405, 501) or isinstance(error, exceptions.NotSupportedError):
        text = "it has no writes that only create (If-None-Match); use a store that keeps this condition"
        return ObjectStoreRefusedError("UNSUPPORTED", text)
    return _unavailable(error)
