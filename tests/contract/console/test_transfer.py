# SPDX-License-Identifier: Apache-2.0
"""Files over HTTP: what is uploaded arrives whole over cut connections, what is downloaded is what was asked for."""

import base64
import hashlib
import random
import socket
import time

import pytest
from finetree_console.transfer import uploads

WRITE, DOWNLOAD = "/trainer/v1/WriteDataset", "/trainer/v1/DownloadArtifact"


def lines(count: int, seed: int) -> bytes:
    return b"".join(b'{"text": "%d"}\n' % random.Random(seed + row).getrandbits(200) for row in range(count))


def created(http, data: bytes) -> str:
    document = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "display_name": "a.jsonl"}
    return http.post("/trainer/v1/CreateDataset", json=document).json()["dataset"]["name"]


def dataset(http, name: str) -> dict:
    return http.get("/trainer/v1/GetDataset", params={"name": name}).json()["dataset"]


@pytest.mark.parametrize("segment", [1, 1000, 4096, 8 * 1024 * 1024])
def test_a_file_is_put(http, suite, monkeypatch, segment):
    monkeypatch.setattr(uploads, "SEGMENT_BYTES", segment)
    monkeypatch.setattr(uploads, "PIECE_BYTES", 1000)
    data = lines(100, segment)[: 4096 * 2]
    name = created(http, data)
    response = http.put(WRITE, params={"name": name}, content=data)
    assert (response.status_code, response.json()["dataset"]["state"]) == (200, "DATASET_STATE_READY")
    assert suite.datasets.content(name) == data


def test_an_upload_goes_on_from_an_offset(http, suite):
    data = lines(50, 1)
    name = created(http, data)
    first = http.put(WRITE, params={"name": name}, content=data[:700]).json()["dataset"]
    assert (first["state"], first["committed_bytes"]) == ("DATASET_STATE_UPLOADING", 700)
    headers = {"content-range": f"bytes 700-{len(data) - 1}/{len(data)}"}
    assert http.put(WRITE, params={"name": name}, content=data[700:], headers=headers).status_code == 200
    assert suite.datasets.content(name) == data


def test_an_upload_at_another_offset_is_told_where_to_go_on(http):
    data = lines(50, 2)
    name = created(http, data)
    http.put(WRITE, params={"name": name}, content=data[:700])
    error = http.put(WRITE, params={"name": name, "offset": 10}, content=data[10:]).json()["error"]
    assert (error["reason"], error["metadata"]["committed_bytes"]) == ("OFFSET_MISMATCH", "700")


@pytest.mark.parametrize("seed", range(3))
def test_what_arrived_before_a_cut_is_kept(address, http, suite, seed):
    data, chance = lines(3000, seed), random.Random(seed)
    name, cuts = created(http, data), 0
    host, _, port = address.partition(":")
    while (offset := dataset(http, name)["committed_bytes"]) < len(data) and cuts < 4:
        rest = data[offset:]
        head = f"PUT {WRITE}?name={name}&offset={offset} HTTP/1.1\r\nHost: {address}\r\n"
        head += f"Content-Length: {len(rest)}\r\n\r\n"
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(head.encode() + rest[: chance.randint(1, 40_000)])
        cuts += 1
    deadline = time.monotonic() + 60
    while not dataset(http, name)["committed_bytes"]:
        assert time.monotonic() < deadline, "nothing of what arrived was kept"
    offset = dataset(http, name)["committed_bytes"]
    done = http.put(WRITE, params={"name": name, "offset": offset}, content=data[offset:])
    # The bytes of a cut connection may still be on their way when the next one asks where to go on.
    while done.status_code != 200:
        offset = int(done.json()["error"]["metadata"]["committed_bytes"])
        done = http.put(WRITE, params={"name": name, "offset": offset}, content=data[offset:])
    assert suite.datasets.content(name) == data


@pytest.mark.parametrize(
    ("query", "headers", "status", "reason"),
    [
        ({}, {}, 400, "INVALID_REQUEST"),
        ({"name": "none"}, {}, 404, "DATASET_NOT_FOUND"),
        ({"name": "none", "data": "YQ=="}, {}, 400, "INVALID_REQUEST"),
        ({"name": "none", "offset": "5"}, {"content-range": "bytes 6-9/10"}, 400, "INVALID_REQUEST"),
        ({"name": "none"}, {"content-range": "lines 6-9/10"}, 400, "INVALID_REQUEST"),
        ({"name": "none"}, {"content-encoding": "gzip"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
    ],
)
def test_an_upload_that_is_wrong_is_refused(http, query, headers, status, reason):
    response = http.put(WRITE, params=query, headers=headers, content=b"x")
    assert (response.status_code, response.json()["error"]["reason"]) == (status, reason)


@pytest.fixture(scope="module")
def file(http):
    """Parameters of an artifact's largest file, and what the artifact says of it."""
    spec = {"model": {"name": "tiny"}, "lora": {"rank": 8}, "dataset": {"path": "rows.jsonl"}}
    job = http.post("/trainer/v1/CreateJob", json={"job": {"train": {"spec": spec}}}).json()["job"]["name"]
    artifact = http.get("/trainer/v1/ListArtifacts", params={"parent": job}).json()["artifacts"][0]
    largest = max(artifact["files"], key=lambda each: each["size_bytes"])
    return {"name": artifact["name"], "path": largest["path"]}, largest


@pytest.fixture(scope="module")
def content(http, file):
    return http.get(DOWNLOAD, params=file[0]).content


def test_a_file_is_downloaded_whole(http, file, content):
    query, described = file
    response = http.get(DOWNLOAD, params=query)
    digest = hashlib.sha256(response.content)
    assert (len(response.content), digest.hexdigest()) == (described["size_bytes"], described["sha256"])
    assert response.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert response.headers["content-disposition"].startswith("attachment")
    assert http.get(DOWNLOAD, params=query, headers={"if-none-match": response.headers["etag"]}).status_code == 304
    head = http.head(DOWNLOAD, params=query)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(content)))


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=100-", slice(100, None)),
        ("bytes=100-299", slice(100, 300)),
        ("bytes=-50", slice(-50, None)),
        ("bytes=5-99999999", slice(5, None)),
    ],
)
def test_a_part_of_a_file(http, file, content, header, part):
    response = http.get(DOWNLOAD, params=file[0], headers={"range": header})
    assert (response.status_code, response.content) == (206, content[part])
    start = part.indices(len(content))[0]
    end = start + len(content[part]) - 1
    assert response.headers["content-range"] == f"bytes {start}-{end}/{len(content)}"


def test_parts_that_there_are_not(http, file, content):
    beyond = http.get(DOWNLOAD, params=file[0], headers={"range": f"bytes={len(content)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(content)}")
    for ignored in ("bytes=0-1,3-4", "bytes=9-3", "pages=1-2", "bytes=-"):
        assert http.get(DOWNLOAD, params=file[0], headers={"range": ignored}).content == content
    changed = {"range": "bytes=0-1", "if-range": '"another"'}
    assert http.get(DOWNLOAD, params=file[0], headers=changed).status_code == 200


def test_a_download_goes_on_when_the_service_breaks_it(http, suite, file, content):
    suite.trainer.cut_download_after(len(content) // 2)
    assert http.get(DOWNLOAD, params=file[0], headers={"range": "bytes=1-"}).content == content[1:]


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"name": "adapter"}, 400, "INVALID_REQUEST"),
        ({"name": "projects/default/jobs/none/artifacts/adapter"}, 404, "JOB_NOT_FOUND"),
        ({"path": "../../etc/passwd"}, 404, "FILE_NOT_FOUND"),
        ({"offset": "3"}, 400, "INVALID_REQUEST"),
    ],
)
def test_a_download_that_is_wrong_is_refused(http, file, change, status, reason):
    response = http.get(DOWNLOAD, params={**file[0], **change})
    assert (response.status_code, response.json()["error"]["reason"]) == (status, reason)
