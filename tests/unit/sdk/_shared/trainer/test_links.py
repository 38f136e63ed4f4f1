# SPDX-License-Identifier: Apache-2.0
"""What is taken of a link's answer, and what is not."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import finetree
import pytest
from finetree._shared.downloads import Download, TransferProgress
from finetree._shared.trainer.links import PIECE_BYTES, LinkReader
from finetree_api.trainer.v1 import artifact_pb2

DATA = bytes(range(256)) * (PIECE_BYTES // 100)
SECONDS = 60.0


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ranged = self.headers.get("Range")
        first = int(ranged.removeprefix("bytes=").removesuffix("-")) if ranged else 0
        kind, part = self.path.strip("/"), DATA[first:]
        if kind == "moved":
            self.send_response(307)
            self.send_header("Location", "/whole")
            part = b""
        elif kind == "expired":
            self.send_response(403)
        elif kind == "ignores-ranges":
            self.send_response(200)
            part = DATA
        else:
            self.send_response(206 if ranged else 200)
        if kind == "page":
            part = b"<html>"
        if kind == "bent":
            part = part[:-1] + b"x"
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part[: len(part) // 2] if kind == "cut" else part)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path) -> Iterator[Download]:
    sha256 = hashlib.sha256(DATA).hexdigest()
    file = artifact_pb2.ArtifactFile(path="weights.bin", size_bytes=len(DATA), sha256=sha256)
    made = Download("projects/p/jobs/1/artifacts/a", file, folder=tmp_path, progress=TransferProgress(len(DATA), None))
    yield made
    made.close()


def take(url: str, target: Download) -> int:
    """Take what a link gives; return the pieces."""
    reader, pieces = LinkReader(url, target, SECONDS), 1
    while reader.move():
        pieces += 1
    reader.close()
    return pieces


def test_a_file_comes_in_pieces_and_goes_on_where_a_cut_has_left_it(address, target, tmp_path):
    take(f"{address}/cut", target)
    assert 0 < target.offset < len(DATA)
    assert take(f"{address}/whole", target) > 1
    target.finish()
    assert (tmp_path / "weights.bin").read_bytes() == DATA


@pytest.mark.parametrize("kind", ["expired", "moved", "page"])
def test_an_answer_that_is_not_the_file_brings_nothing(address, target, kind):
    assert take(f"{address}/{kind}", target) == 1
    assert target.offset == 0


def test_an_answer_from_another_place_than_asked_for_brings_nothing(address, target):
    target.write(0, DATA[:1000])
    take(f"{address}/ignores-ranges", target)
    assert target.offset == 1000


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://127.0.0.1:1/x", "http://127.0.0.1:1/x", "http://[", "x"]
)
def test_what_is_no_reachable_http_brings_nothing(target, url):
    take(url, target)
    assert target.offset == 0


def test_bytes_of_another_hash_get_no_name(address, target, tmp_path):
    take(f"{address}/bent", target)
    assert target.complete
    with pytest.raises(finetree.Internal) as error:
        target.finish()
    assert error.value.reason == "ARTIFACT_CORRUPT"
    assert list(tmp_path.iterdir()) == []
