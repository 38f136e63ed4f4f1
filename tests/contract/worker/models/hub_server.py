# SPDX-License-Identifier: Apache-2.0

"""A small model hub on loopback: what `huggingface_hub` asks a hub, answered from memory, with faults on request."""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repo:
    """A repository: its files at one commit, and which names that commit has."""

    files: dict[str, bytes]
    commit: str = COMMIT
    refs: tuple[str, ...] = ("main",)
    gated: bool = False
    private: bool = False
    sizes: dict[str, int] = field(default_factory=dict)
    """Sizes that the listing tells instead of the true ones."""
    hashes: dict[str, str] = field(default_factory=dict)
    """Hashes that the listing tells instead of the true ones."""


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    range: str
    token: str


class Hub:
    """Repositories by id. `cut_after` ends the next transfer of a longer file after so many bytes, once."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.cut_after = 0
        self.stall_after = 0
        """Bytes after which the next transfer of a longer file says nothing more until `released` is set, once."""
        self.released = threading.Event()
        self.status = 0
        """Answered to everything, when not 0."""
        self.token = "hub-secret"
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def transfers(self, name: str) -> list[str]:
        """Range headers of a file's transfers, "" where there was none."""
        return [request.range for request in self.requests if request.path.endswith(f"/{name}")]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        self.hub.requests.append(Request(self.command, path, self.headers.get("range", ""), token))
        if self.hub.status:
            self._refuse(self.hub.status)
        elif found := re.fullmatch(r"/api/models/(.+?)(?:/revision/(.+))?", path):
            self._listing(found[1], found[2] or "main", token)
        elif found := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            self._file(found[1], found[2], found[3], token)
        else:
            self._refuse(404)

    def _repo(self, name: str, revision: str, token: str) -> Repo | None:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and token != self.hub.token):
            self._refuse(401 if not token else 404, "RepoNotFound")
        elif revision not in (*repo.refs, repo.commit):
            self._refuse(404, "RevisionNotFound")
        else:
            return repo
        return None

    def _listing(self, name: str, revision: str, token: str) -> None:
        if (repo := self._repo(name, revision, token)) is None:
            return
        siblings = []
        for file, content in repo.files.items():
            size = repo.sizes.get(file, len(content))
            entry = {"rfilename": file, "size": size, "blobId": hashlib.sha1(content).hexdigest()}
            if file.endswith((".safetensors", ".bin")):
                sha256 = repo.hashes.get(file, hashlib.sha256(content).hexdigest())
                entry["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 134}
            siblings.append(entry)
        self._answer(json.dumps({"id": name, "sha": repo.commit, "siblings": siblings}).encode())

    def _file(self, name: str, revision: str, file: str, token: str) -> None:
        if (repo := self._repo(name, revision, token)) is None:
            return
        if repo.gated and token != self.hub.token:
            self._refuse(403 if token else 401, "GatedRepo")
        elif file not in repo.files:
            self._refuse(404, "EntryNotFound")
        else:
            self._transfer(repo, file)

    def _transfer(self, repo: Repo, file: str) -> None:
        content, asked = repo.files[file], re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        start = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", repo.commit)
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if self.hub.cut_after and len(body) > self.hub.cut_after:
            body, self.hub.cut_after, self.close_connection = body[: self.hub.cut_after], 0, True
        if self.hub.stall_after and len(body) > self.hub.stall_after:
            stalled, self.hub.stall_after, self.close_connection = self.hub.stall_after, 0, True
            self.wfile.write(body[:stalled])
            self.hub.released.wait(30)
            return
        if self.command == "GET":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
