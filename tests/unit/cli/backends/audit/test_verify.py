# SPDX-License-Identifier: Apache-2.0
"""Every change of a log's past is found and named; what only a hash kept elsewhere tells is told by it."""

import hashlib
import json
import os
import random
import tempfile
from pathlib import Path

import pytest
from finetree_cli.backends.audit.records import lines
from finetree_cli.backends.audit.verify import verify
from finetree_runtime.server.audit.files import AuditFiles
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(autouse=True, scope="module")
def without_flushes():
    """No power is cut here, and flushes take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def write(folder, count, *, file_bytes=1500, torn_after=()):
    files = AuditFiles(folder, file_bytes)
    for number in range(1, count + 1):
        files.append([{"event": "call", "principal": "ci", "method": f"M{number}", "resources": ["x" * (number % 7)]}])
        if number in torn_after:
            newest = max(folder.glob("audit-*.jsonl"))
            files.close()
            with newest.open("ab") as stream:
                stream.write(b'{"seq":' + b"9" * number)
            files = AuditFiles(folder, file_bytes)
            files.open()
    files.close()


def stored(folder):
    """(file, line) of every line, in order."""
    return [
        (path, raw) for path in sorted(folder.glob("*.jsonl")) for raw in path.read_bytes().splitlines(keepends=True)
    ]


def store(folder, entries):
    for path in folder.glob("*.jsonl"):
        path.write_bytes(b"".join(raw for file, raw in entries if file == path))


def resealed(raw, principal):
    document = json.loads(raw) | {"principal": principal}
    document.pop("hash")
    body = json.dumps(document, separators=(",", ":")).encode()
    return body[:-1] + f',"hash":"{hashlib.sha256(body).hexdigest()}"}}\n'.encode()


def change_a_byte(entries, chance):
    place = chance.randrange(len(entries))
    file, raw = entries[place]
    at = chance.randrange(len(raw) - 1)
    other = raw[:at] + bytes([raw[at] ^ chance.randrange(1, 256)]) + raw[at + 1 :]
    return [*entries[:place], (file, other), *entries[place + 1 :]]


def rewrite_with_a_hash(entries, chance):
    records = [place for place, (_, raw) in enumerate(entries[:-1]) if b'"event":"call"' in raw]
    place = chance.choice(records)
    file, raw = entries[place]
    return [*entries[:place], (file, resealed(raw, principal="mallory")), *entries[place + 1 :]]


def remove(entries, chance):
    begin = chance.randrange(len(entries) - 1)
    end = chance.randrange(begin + 1, len(entries))
    return entries[:begin] + entries[end:]


def swap(entries, chance):
    one, other = chance.sample(range(len(entries)), 2)
    changed = list(entries)
    changed[one], changed[other] = (entries[one][0], entries[other][1]), (entries[other][0], entries[one][1])
    return changed


def repeat(entries, chance):
    one, to = chance.randrange(len(entries)), chance.randrange(len(entries))
    file, raw = entries[to][0], entries[one][1]
    return [*entries[: to + 1], (file, raw), *entries[to + 1 :]]


def forge(entries, chance):
    place = chance.randrange(len(entries))
    file, raw = entries[place]
    record = resealed(raw if raw.endswith(b"}\n") else entries[0][1], principal="mallory")
    return [*entries[:place], (file, record), *entries[place:]]


@settings(max_examples=150)
@given(
    st.sampled_from([change_a_byte, rewrite_with_a_hash, remove, swap, repeat, forge]),
    st.integers(3, 25),
    st.sets(st.integers(1, 24), max_size=3),
    st.integers(0, 2**32),
)
def test_each_change_of_the_past_is_found(tamper, count, torn_after, seed):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, count, torn_after=torn_after)
        entries = stored(folder)
        assert verify(folder).fault is None
        changed = tamper(entries, random.Random(seed))
        store(folder, changed)
        assert verify(folder).fault is not None


@pytest.mark.parametrize(
    ("tamper", "kind", "seq"),
    [
        (lambda e: [*e[:4], (e[4][0], e[4][1].replace(b"ci", b"me")), *e[5:]], "changed", 5),
        (lambda e: [*e[:4], (e[4][0], resealed(e[4][1], principal="me")), *e[5:]], "changed", 5),
        (lambda e: e[:4] + e[6:], "removed", 5),
        (lambda e: e[2:], "removed", 1),
        (lambda e: [*e[:4], e[5], e[4], *e[6:]], "reordered", 5),
        (lambda e: [*e[:5], e[2], *e[5:]], "inserted", 3),
    ],
    ids=["a text", "a text and its hash", "two records", "the first two", "two swapped", "one repeated"],
)
def test_the_first_record_concerned_is_named(tmp_path, tamper, kind, seq):
    write(tmp_path, 9, file_bytes=10**6)
    store(tmp_path, tamper(stored(tmp_path)))
    fault = verify(tmp_path).fault
    assert (fault.kind, fault.seq) == (kind, seq)


def test_a_removed_file_is_found(tmp_path):
    write(tmp_path, 30)
    files = sorted(tmp_path.glob("*.jsonl"))
    first_of = int(files[1].stem.removeprefix("audit-"))
    files[1].unlink()
    fault = verify(tmp_path).fault
    assert (fault.kind, fault.seq) == ("removed", first_of)


def test_older_files_may_be_moved_where_their_last_hash_is_known(tmp_path):
    write(tmp_path, 30)
    first, *_ = sorted(tmp_path.glob("*.jsonl"))
    last = [line for line in lines(tmp_path) if line.file == first][-1]
    first.unlink()
    assert verify(tmp_path).fault.kind == "removed"
    assert verify(tmp_path, after=last.hash).fault is None
    assert verify(tmp_path, after="1" * 64).fault is not None


def test_only_a_hash_kept_elsewhere_tells_that_the_end_was_cut_off(tmp_path):
    write(tmp_path, 9, file_bytes=10**6)
    head = verify(tmp_path).head
    store(tmp_path, stored(tmp_path)[:-2])
    verdict = verify(tmp_path, heads=[head])
    assert (verdict.fault, verdict.heads) == (None, {})
    write(tmp_path, 2, file_bytes=10**6)
    assert verify(tmp_path, heads=[head]).heads == {}


def test_a_head_of_earlier_is_found_again_when_the_log_has_gone_on(tmp_path):
    write(tmp_path, 4)
    head = verify(tmp_path).head
    write(tmp_path, 5)
    assert verify(tmp_path, heads=[head]).heads == {head: 4}
