# SPDX-License-Identifier: Apache-2.0
"""What the hub's library raises, in this suite's errors."""

import errno

import pytest
from finetree import FailedPrecondition, FinetreeError, InvalidArgument, Unavailable
from finetree._shared.hub.model_hub import Target, _refusals

TARGET = Target("a/b", endpoint="https://hub.example", token="hf_mine")


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


GONE = FileNotFoundError(errno.ENOENT, "No such file or directory", "/home/me/cache/model.safetensors")


@pytest.mark.parametrize(
    ("raised", "kind", "reason", "said"),
    [
        (ValueError("bad name\nmore"), InvalidArgument, "PUSH_REFUSED", "accept it: bad name"),
        (ValueError(), InvalidArgument, "PUSH_REFUSED", "accept it: ValueError"),
        (ValueError("\n"), InvalidArgument, "PUSH_REFUSED", "accept it: ValueError"),
        (GONE, FailedPrecondition, "PUSH_FILE_UNREADABLE", "model.safetensors of the fetched artifact cannot be read"),
        (caused(RuntimeError("upload"), GONE), FailedPrecondition, "PUSH_FILE_UNREADABLE", "No such file or directory"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), Unavailable, "PUSH_REFUSED", "(ConnectionResetError)"),
        (caused(RuntimeError("upload"), TimeoutError()), Unavailable, "PUSH_REFUSED", "broke (TimeoutError)"),
    ],
)
def test_what_the_library_raises_is_said_without_its_addresses(raised, kind, reason, said):
    with pytest.raises(FinetreeError) as caught, _refusals(TARGET):
        raise raised
    assert type(caught.value) is kind
    assert caught.value.reason == reason
    assert said in caught.value.message
    assert "/home/me" not in caught.value.message
