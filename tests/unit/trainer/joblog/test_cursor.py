# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_runtime.errors import FailedPrecondition, InvalidArgument
from finetree_trainer.joblog import cursor
from hypothesis import given
from hypothesis import strategies as st


@given(seq=st.integers(0, 2**53 - 1))
def test_a_cursor_comes_back_as_it_was(seq):
    assert cursor.decode(cursor.encode("ab12", "job", seq), "ab12", "job") == seq


@given(seq=st.integers(0, 2**50), seen=st.integers(0, 2**50))
def test_the_number_of_an_event_seen_after_it_counts(seq, seen):
    base = cursor.encode("ab12", "job", seq)
    assert cursor.decode(f"{base}~{seen}", "ab12", "job") == max(seq, seen)
    assert cursor.decode(f"~{seen}", "ab12", "job") == seen
    with pytest.raises(FailedPrecondition):
        cursor.decode(f"{base}~{seen}", "new", "job")


@pytest.mark.parametrize("text", ["~", "~x", "~-1", "~1~2", "nonsense~4", "~" + "9" * 17])
def test_a_number_behind_anything_else_is_refused(text):
    with pytest.raises(InvalidArgument, match="not a cursor"):
        cursor.decode(text, "ab12", "job")


@given(text=st.text(max_size=60).filter(lambda text: "~" not in text))
def test_nothing_else_is_taken_for_a_cursor(text):
    with pytest.raises(InvalidArgument, match="not a cursor"):
        cursor.decode(text, "ab12", "job")


def test_a_cursor_of_another_log_or_job_is_told_apart():
    with pytest.raises(FailedPrecondition) as error:
        cursor.decode(cursor.encode("old", "job", 3), "new", "job")
    assert error.value.reason == "LOG_RESET"
    with pytest.raises(InvalidArgument):
        cursor.decode(cursor.encode("new", "other", 3), "new", "job")
    forged = cursor.encode("new", "job", 3).replace(".3.", ".4.")
    with pytest.raises(InvalidArgument):
        cursor.decode(forged, "new", "job")
