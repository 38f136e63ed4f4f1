# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: PT017 - either answer is right, and the refusal has to be a good one
import itertools
import json

import pytest
from finetree_data.token_estimates import END_OF_TURN, MESSAGE, NO_SYSTEM_MESSAGE
from finetree_runtime.errors import InvalidArgument
from finetree_trainer.datasets import validate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def write(tmp_path, content):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    return file


def test_token_lengths_are_estimated_from_characters_and_messages(tmp_path):
    row = {"prompt": "x" * 400, "completion": "y" * 100}
    profile = validate.validate_file(write(tmp_path, (json.dumps(row) + "\n").encode() * 3)).profile
    assert profile.examples == 3
    row_tokens = 100 + 25 + 2 * MESSAGE.expected + NO_SYSTEM_MESSAGE.expected
    assert profile.total_tokens == 3 * row_tokens
    assert profile.total_tokens_range.low < profile.total_tokens < profile.total_tokens_range.high
    assert profile.target_fraction == pytest.approx((25 + END_OF_TURN) / row_tokens)
    assert [(b.upper_bound, b.count) for b in profile.token_lengths] == [(160, 3)]


def test_bounds_of_the_histogram_are_close_and_few(tmp_path):
    content = b"".join(json.dumps({"text": "x" * n * 4}).encode() + b"\n" for n in range(1, 3000))
    profile = validate.validate_file(write(tmp_path, content)).profile
    bounds = [bucket.upper_bound for bucket in profile.token_lengths]
    assert bounds == sorted(set(bounds))
    assert len(bounds) <= 256
    assert all(after <= before * 1.125 + 1 for before, after in itertools.pairwise(bounds))
    assert bounds[-1] >= 2999


def test_blank_lines_and_a_byte_order_mark_are_no_rows(tmp_path):
    checked = validate.validate_file(write(tmp_path, b'\xef\xbb\xbf{"text": "a"}\n\n  \n{"text": "b"}'))
    assert checked.profile.examples == 2


def test_rows_are_counted_as_lines_of_the_file(tmp_path):
    with pytest.raises(InvalidArgument) as error:
        validate.validate_file(write(tmp_path, b'{"text": "a"}\n\n\n{"text": ""}\n'))
    assert error.value.violations[0].field_path == "rows[4].text"
    assert error.value.metadata["row"] == "4"


def test_a_file_without_line_breaks_is_no_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr("finetree_data.files.json_lines.MAX_ROW_BYTES", 100)
    with pytest.raises(InvalidArgument) as error:
        validate.validate_file(write(tmp_path, b'{"text": "' + b"x" * 500 + b'"}'))
    assert error.value.reason == "MALFORMED_ROW"
    assert len(error.value.violations) == 1


@pytest.mark.parametrize(
    "line", [b'{"text": ' + b"[" * 100_000, b'{"text": ' + b"1" * 10_000 + b"}", b'{"text": NaN}', b"null"]
)
def test_strange_json_is_refused(tmp_path, line):
    with pytest.raises(InvalidArgument) as error:
        validate.validate_file(write(tmp_path, line))
    assert error.value.reason == "MALFORMED_ROW"


FILE_REASONS = {
    *("MALFORMED_ROW", "MALFORMED_FILE", "EMPTY_DATASET", "NOT_UTF8"),
    *("UNSUPPORTED_FILE", "DATASET_UNREADABLE"),
}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | st.lists(st.text(max_size=30)).map(lambda t: json.dumps(t).encode()))
def test_whatever_the_bytes_are_the_answer_is_a_profile_or_a_named_row(tmp_path, content):
    try:
        assert validate.validate_file(write(tmp_path, content)).profile.examples >= 1
    except InvalidArgument as error:
        assert error.reason in FILE_REASONS
        assert error.violations[0].field_path.startswith("rows")


def test_columns_that_tell_nothing_are_named_once(tmp_path):
    with pytest.raises(InvalidArgument) as error:
        validate.validate_file(write(tmp_path, b'{"headline": "h", "abstract": "a"}\n' * 9))
    assert [violation.field_path for violation in error.value.violations] == ["rows[1]"]
    assert str(error.value).endswith("columns {prompt: headline, completion: abstract}.")


def test_each_bad_row_of_known_columns_is_named(tmp_path):
    with pytest.raises(InvalidArgument) as error:
        validate.validate_file(write(tmp_path, b'{"text": 5}\n' * 3))
    assert [violation.field_path for violation in error.value.violations] == [f"rows[{i}].text" for i in (1, 2, 3)]
