# SPDX-License-Identifier: Apache-2.0
"""Backups that are missing, old or damaged."""

from datetime import UTC, datetime

import pytest
from finetree_cli.doctor.backups import judged
from finetree_cli.doctor.finding import Level

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
NEW = {"id": "b", "time": "2026-11-28T02:00:00+00:00"}
OLD = {"id": "a", "time": "2026-11-26T02:00:00+00:00"}
DAMAGED = {"id": "c", "error": "the manifest of backup c is damaged"}


@pytest.mark.parametrize(
    ("found", "levels"),
    [
        ([], [Level.PROBLEM]),
        ([OLD], [Level.WARNING]),
        ([OLD, NEW], [Level.OK]),
        ([OLD, NEW, DAMAGED], [Level.PROBLEM, Level.OK]),
    ],
)
def test_backups_are_judged_by_the_newest_whole_one(found, levels):
    assert [each.level for each in judged(found, NOW)] == levels
