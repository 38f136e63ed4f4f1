# SPDX-License-Identifier: Apache-2.0
"""Reports of what holds."""

import pytest
from finetree_data.confinement import measures
from finetree_data.confinement.measures import Measure, State
from finetree_data.confinement.policy import Policy

FOUND = (
    Measure(measures.FILES, State.PARTIAL, "files elsewhere can be truncated"),
    Measure(measures.SYSTEM_CALLS, State.HOLDS),
    Measure(measures.SOCKETS, State.OFF, "this task downloads from a hub"),
    Measure(measures.UNIX_SOCKETS, State.UNAVAILABLE, "it needs Landlock 9, this kernel has 7"),
    Measure(measures.CAPABILITIES, State.UNAVAILABLE, "not permitted"),
)


def test_a_report_comes_back_as_it_was_written():
    assert measures.from_text(measures.to_text(FOUND)) == FOUND


def test_missing_is_what_the_system_does_not_allow_of_the_core():
    assert [measure.name for measure in measures.missing(FOUND)] == [measures.CAPABILITIES]


def test_a_summary_names_everything_and_why_it_does_not_hold():
    line = measures.summary(FOUND)
    assert line.startswith("confined: system_calls; files partial (files elsewhere can be truncated); ")
    assert all(measure.name in line and measure.why in line for measure in FOUND)
    assert measures.summary(()) == "confined: nothing holds"


@pytest.mark.parametrize("text", ["", "[[1]]", "{}x", '[["files", "sure", ""]]'])
def test_what_is_no_report_is_refused(text):
    with pytest.raises((ValueError, TypeError)):
        measures.from_text(text)


def test_a_policy_comes_back_as_it_was_written_and_only_once():
    policy = Policy(read=("/a b", "/c"), write=("/d",), temporary="/t", network=True, max_file_bytes=7)
    environment = {"FINETREE_WORKER_CONFINEMENT": policy.to_text()}
    assert Policy.take(environment) == policy
    assert Policy.take(environment) is None
