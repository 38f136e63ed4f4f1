# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_cli.gate.policy.globs import matches


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("job.yaml", "job.yaml", True),
        ("job.yaml", "a/job.yaml", False),
        ("./a/*.yaml", "a/job.yaml", True),
        ("*.yaml", "a/job.yaml", False),
        ("**/*.yaml", "job.yaml", True),
        ("**/*.yaml", "a/b/job.yaml", True),
        ("a/**", "a/b/job.yaml", True),
        ("a/**", "ab/job.yaml", False),
        ("a/**/z/*.yaml", "a/z/job.yaml", True),
        ("a/**/z/*.yaml", "a/b/c/z/job.yaml", True),
        ("job?.yaml", "job1.yaml", True),
        ("job?.yaml", "job/.yaml", False),
        ("job[1].yaml", "job[1].yaml", True),
        ("job[1].yaml", "job1.yaml", False),
    ],
)
def test_globs(pattern, path, expected):
    assert matches(pattern, path) is expected


def test_many_stars_are_answered_at_once():
    assert not matches("a/" + "*" * 200 + "b", "a/" + "a" * 200)
    assert not matches("**/" * 20 + "b", "a/" * 100 + "a")
