# SPDX-License-Identifier: Apache-2.0
"""Units in a folder and in a real S3 server: what is put, in which order, and what a cut or a flipped bit does."""

import json
import os
from pathlib import Path

import pytest
from finetree_data.objects import units
from finetree_data.objects.bucket import PART_BYTES, Bucket
from finetree_data.objects.errors import ObjectDamagedError, ObjectStoreUnavailableError
from finetree_data.objects.units import Manifest

PATH = "jobs/j1/checkpoints/step-00000004"


@pytest.fixture(params=["folder", "s3"])
def bucket(request, tmp_path):
    if request.param == "folder":
        (tmp_path / "store").mkdir()
        return Bucket.open(f"file://{tmp_path / 'store'}", {})
    server = request.getfixturevalue("object_store")
    return Bucket.open(f"s3://{server.new_bucket()}/some/prefix", server.options() | {"allow_http": True})


@pytest.fixture
def place(tmp_path) -> Path:
    """A unit of three files, one of them of two parts and one in a folder."""
    folder = tmp_path / "data" / PATH
    (folder / "inner").mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(os.urandom(PART_BYTES + 1000))
    (folder / "inner" / "state.json").write_bytes(b"{}")
    (folder / "manifest.json").write_bytes(b'{"step": 4}')
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_unit_comes_back_as_it_was_and_goes_as_a_whole(bucket, place, tmp_path):
    manifest = units.describe(PATH, place, {})
    assert units.upload(bucket, manifest, place) == manifest.size
    assert units.find(bucket, PATH) == manifest
    assert units.find_below(bucket, "jobs/j1") == ([manifest], [])
    assert units.is_stored(bucket, manifest)
    units.fetch(bucket, manifest, tmp_path / "draft")
    assert content(tmp_path / "draft") == content(place)
    assert (tmp_path / "draft").stat().st_mtime_ns == place.stat().st_mtime_ns
    assert units.upload(bucket, manifest, place) == 0
    units.remove(bucket, PATH)
    assert units.find(bucket, PATH) is None
    assert bucket.keys("files/") == bucket.keys("manifests/") == []


def test_an_upload_that_was_cut_goes_on_with_the_first_file_that_is_missing(bucket, place):
    manifest = units.describe(PATH, place, {})
    parts = iter([False] * 3 + [True] * 9)
    bucket.stopped = lambda: next(parts)
    with pytest.raises(ObjectStoreUnavailableError):
        units.upload(bucket, manifest, place)
    # Nothing counts yet, and nothing of the file that was cut is to be seen.
    assert units.find(bucket, PATH) is None
    sent = sum(bucket.size(key) or 0 for key in bucket.keys("files/"))
    assert 0 < sent < PART_BYTES
    bucket.stopped = lambda: False
    assert units.upload(bucket, manifest, place) == manifest.size - sent
    assert units.is_stored(bucket, manifest)


def test_a_flipped_bit_is_named_on_both_ways(bucket, place, tmp_path):
    manifest = units.describe(PATH, place, {})
    with (place / "weights.safetensors").open("r+b") as stream:
        stream.write(b"\x00\x00")
    with pytest.raises(ObjectDamagedError) as error:
        units.upload(bucket, manifest, place)
    assert (error.value.path, error.value.file) == (PATH, "weights.safetensors")
    assert units.find(bucket, PATH) is None
    manifest = units.describe(PATH, place, {})
    units.upload(bucket, manifest, place)
    key = f"files/{PATH}/{manifest.files['inner/state.json'].sha256}"
    bucket.delete([key])
    bucket.create(key, b"[]")
    with pytest.raises(ObjectDamagedError) as error:
        units.fetch(bucket, manifest, tmp_path / "draft")
    assert error.value.file == "inner/state.json"


def test_the_second_writer_of_a_manifest_finds_the_first_ones(bucket, place):
    manifest = units.describe(PATH, place, {})
    units.upload(bucket, manifest, place)
    (place / "manifest.json").write_bytes(b'{"step": 5}')
    with pytest.raises(ObjectDamagedError):
        units.upload(bucket, units.describe(PATH, place, {}), place)
    assert units.find(bucket, PATH) == manifest


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"path": "jobs/j2/checkpoints/step-00000004"},
        {"files": {"../../secret": {"sha256": "0" * 64, "size": 1}}},
        {"files": {"/secret": {"sha256": "0" * 64, "size": 1}}},
        {"files": [1]},
    ],
)
def test_a_manifest_that_is_none_is_refused(change):
    whole = {"format": 1, "path": PATH, "time_ns": 5, "files": {"a": {"sha256": "0" * 64, "size": 1}}}
    assert Manifest.parse(PATH, json.dumps(whole).encode()).size == 1
    with pytest.raises(ObjectDamagedError):
        Manifest.parse(PATH, json.dumps(whole | change).encode())
    with pytest.raises(ObjectDamagedError):
        Manifest.parse(PATH, b"\xff")


def test_a_link_in_a_unit_is_no_file_of_it(place, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("not theirs")
    (place / "inner" / "link").symlink_to(secret)
    assert set(units.describe(PATH, place, {}).files) == {"weights.safetensors", "inner/state.json", "manifest.json"}
