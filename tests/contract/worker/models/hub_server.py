# SPDX-License-Identifier: Apache-2.0

"""A small model hub on loopback: what `huggingface_hub` asks a hub, answered from memory, with faults on request.

It takes pushes too: repositories and branches, large files by the LFS batch protocol, and commits.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
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
    tags: tuple[str, ...] = ()


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
        self.objects: dict[str, bytes] = {}
        """Large files that were uploaded, by SHA-256; a commit makes them a repository's."""
        self.failing_uploads: list[str] = []
        """SHA-256 of large files whose next upload is refused, each once."""
        self.refused_cards = ""
        """What is said of every model card; empty: it is accepted where its front matter is YAML."""
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


def is_large(file: str) -> bool:
    """Whether the hub keeps a file of this name outside of git."""
    return file.endswith((".safetensors", ".bin"))


def git_hash(content: bytes) -> str:
    """Hash of a file as git has it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


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
        elif found := re.fullmatch(r"/api/models/(.+?)/tree/([^/]+)", path):
            self._tree(found[1], found[2], token)
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
        told = {"id": name, "sha": repo.commit, "siblings": siblings, "private": repo.private, "tags": list(repo.tags)}
        self._answer(json.dumps(told).encode())

    def _tree(self, name: str, revision: str, token: str) -> None:
        if (repo := self._repo(name, revision, token)) is None:
            return
        entries: list[dict[str, Any]] = []
        for file, content in repo.files.items():
            entries.append({"type": "file", "path": file, "size": len(content), "oid": git_hash(content)})
            if is_large(file):
                lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
                entries[-1]["lfs"] = lfs
        self._answer(json.dumps(entries).encode())

    def do_POST(self) -> None:
        body, token = self._begin()
        path = unquote(urlsplit(self.path).path)
        if self.hub.status:
            self._refuse(self.hub.status)
        elif token != self.hub.token:
            self._refuse(401)
        elif path == "/api/validate-yaml":
            self._card(json.loads(body)["content"])
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif found := re.fullmatch(r"/api/models/(.+?)/branch/([^/]+)", path):
            repo = self.hub.repos[found[1]]
            taken, repo.refs = found[2] in repo.refs, (*repo.refs, found[2])
            self._refuse(409 if taken else 200)
        elif found := re.fullmatch(r"/api/models/(.+?)/preupload/([^/]+)", path):
            files = [
                {"path": each["path"], "uploadMode": "lfs" if is_large(each["path"]) else "regular"}
                for each in json.loads(body)["files"]
            ]
            self._answer(json.dumps({"files": [each | {"shouldIgnore": False} for each in files]}).encode())
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body)["objects"])
        elif found := re.fullmatch(r"/api/models/(.+?)/commit/([^/]+)", path):
            self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._refuse(404)

    def do_PUT(self) -> None:
        body, _ = self._begin()
        sha256 = self.path.rpartition("/")[2]
        if sha256 in self.hub.failing_uploads:
            self.hub.failing_uploads.remove(sha256)
            self._refuse(400)
        elif hashlib.sha256(body).hexdigest() != sha256:
            self._refuse(422)
        else:
            self.hub.objects[sha256] = body
            self._refuse(200)

    def _begin(self) -> tuple[bytes, str]:
        if self.headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        self.hub.requests.append(Request(self.command, urlsplit(self.path).path, "", token))
        return body, token

    def _card(self, text: str) -> None:
        if self.hub.refused_cards or not text.startswith("---\n"):
            told = {"errors": [{"message": self.hub.refused_cards or "no metadata"}], "warnings": []}
            self._answer(json.dumps(told).encode(), status=400)
        else:
            self._answer(json.dumps({"errors": [], "warnings": []}).encode())

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        if name in self.hub.repos:
            self._answer(
                json.dumps({"error": "It is there already", "url": f"{self.hub.url}/{name}"}).encode(), status=409
            )
            return
        self.hub.repos[name] = Repo({}, private=asked.get("visibility", "public") == "private")
        self._answer(json.dumps({"url": f"{self.hub.url}/{name}"}).encode())

    def _batch(self, objects: list[dict[str, Any]]) -> None:
        held = self.hub.objects.keys() | {
            hashlib.sha256(content).hexdigest() for repo in self.hub.repos.values() for content in repo.files.values()
        }
        told = [
            {"oid": each["oid"], "size": each["size"]}
            | ({} if each["oid"] in held else {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}})
            for each in objects
        ]
        self._answer(json.dumps({"transfer": "basic", "objects": told}).encode())

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        repo = self.hub.repos[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repo.files[value["path"]] = self.hub.objects[value["oid"]]
        listed = "".join(f"{file} {git_hash(content)}\n" for file, content in sorted(repo.files.items()))
        repo.commit = hashlib.sha1(listed.encode()).hexdigest()
        told = {"commitUrl": f"{self.hub.url}/{name}/commit/{repo.commit}", "commitOid": repo.commit}
        self._answer(json.dumps(told).encode())

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
            self.hub.released.wait(60)
            return
        if self.command == "GET":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, body: bytes, *, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
