# SPDX-License-Identifier: Apache-2.0
"""Parts of files as HTTP names them."""

import contextlib

import pytest
from finetree_console.errors import HttpError
from finetree_console.transfer.ranges import Part, requested, sent_from
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SIZE = 100


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, Part(0, 100, whole=True)),
        ("bytes=0-0", Part(0, 1, whole=False)),
        ("bytes=0-", Part(0, 100, whole=False)),
        ("bytes=99-", Part(99, 100, whole=False)),
        ("bytes=-1", Part(99, 100, whole=False)),
        ("bytes=-1000", Part(0, 100, whole=False)),
        ("bytes = 5 - 9 ", Part(5, 10, whole=False)),
        ("bytes=5-4", Part(0, 100, whole=True)),
        ("bytes=1-2,5-6", Part(0, 100, whole=True)),
        ("bytes=٣-٤", Part(0, 100, whole=True)),
        ("items=1-2", Part(0, 100, whole=True)),
    ],
)
def test_a_range(header, part):
    assert requested(header, SIZE) == part


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=100-", 100), ("bytes=100-200", 100), ("bytes=-0", 100), ("bytes=0-", 0)]
)
def test_a_range_behind_the_end(header, size):
    with pytest.raises(HttpError) as caught:
        requested(header, size)
    assert (caught.value.status, caught.value.headers) == (416, {"Content-Range": f"bytes */{size}"})


@settings(derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.from_regex(r"bytes=[0-9]{0,4}-[0-9]{0,4}", fullmatch=True), st.integers(0, 2000))
def test_a_part_is_inside_of_the_file(header, size):
    with contextlib.suppress(HttpError):
        part = requested(header, size)
        assert 0 <= part.start <= part.end <= size
        assert part.whole or part.start < part.end


def test_the_offset_of_an_upload():
    assert sent_from(None) is None
    assert sent_from("bytes 700-999/1000") == 700
    assert sent_from("bytes 0-9/*") == 0
    for wrong in ("", "bytes 9-3/10", "bytes */10", "700-999/1000", "bytes -5-9/10"):
        with pytest.raises(HttpError, match="is not of the form"):
            sent_from(wrong)
