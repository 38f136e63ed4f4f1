# SPDX-License-Identifier: Apache-2.0
"""Streams that a principal or a project has open."""

import contextlib

import pytest
from finetree_runtime.errors import ResourceExhausted
from finetree_runtime.server.limits.file import LimitsFile
from finetree_runtime.server.limits.places import OpenStreams
from finetree_runtime.server.limits.table import Caller


def test_what_is_closed_makes_room_for_the_same_subject_alone():
    streams = OpenStreams(LimitsFile(None, {"projects": {"watchers": 2}, "principals": {"watchers": 1}}))
    with contextlib.ExitStack() as held:
        held.enter_context(streams.taken("watchers", Caller("ci", "search")))
        with pytest.raises(ResourceExhausted, match="principals/ci has 1 of 1 open watches"):
            held.enter_context(streams.taken("watchers", Caller("ci", "other")))
        held.enter_context(streams.taken("watchers", Caller("eve", "search")))
        with pytest.raises(ResourceExhausted) as caught:
            held.enter_context(streams.taken("watchers", Caller("bob", "search"), reason="TOO_MANY_WATCHERS"))
        assert caught.value.reason == "TOO_MANY_WATCHERS"
        assert caught.value.metadata == {"limit": "watchers", "subject": "projects/search", "value": "2", "used": "2"}
        held.enter_context(streams.taken("uploads", Caller("ci", "search")))
    assert streams.count("watchers", "projects/search") == 0
    assert not streams._open


def test_zero_allows_nothing():
    streams = OpenStreams(LimitsFile(None, {"projects": {"uploads": 0}}))
    with pytest.raises(ResourceExhausted), streams.taken("uploads", Caller("ci", "search")):
        pass
