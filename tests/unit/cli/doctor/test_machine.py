# SPDX-License-Identifier: Apache-2.0
"""Limits of the machine, and the file system that a folder is on."""

from pathlib import Path

import pytest
from finetree_cli.doctor import machine
from finetree_cli.doctor.finding import Level

MOUNTS = """overlay / overlay rw 0 0
/dev/sda1 /srv ext4 rw 0 0
server:/export /srv/data nfs4 rw 0 0
tmpfs /srv/data/my\\040scratch tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/srv/database", "ext4"),
        ("/srv/data/trainer", "nfs4"),
        ("/srv/data/my scratch/x", "tmpfs"),
        ("/home/me", "overlay"),
    ],
)
def test_the_longest_mount_holds(folder, kind):
    assert machine.file_system_of(Path(folder), MOUNTS) == kind


def test_the_database_needs_a_local_disk():
    assert machine.file_system("nfs4").level is Level.PROBLEM
    assert machine.file_system("tmpfs").level is Level.WARNING
    assert machine.file_system("ext4").level is Level.OK


@pytest.mark.parametrize(
    ("free", "level"), [(0, Level.PROBLEM), (5 * machine.GIB, Level.WARNING), (99 * machine.GIB, Level.OK)]
)
def test_room_on_the_disk_is_graded(free, level):
    assert machine.disk(free).level is level


def test_a_limit_that_can_be_raised_is_told_how():
    assert machine.open_files((1024, 1048576)).remedy.startswith("ulimit -n 4096")
    assert "limits.conf" in machine.open_files((1024, 1024)).remedy
    assert machine.open_files((-1, -1)).level is Level.OK


def test_a_folder_that_is_not_there_yet_is_judged_by_the_one_above(tmp_path):
    assert machine.existing(tmp_path / "a" / "b") == tmp_path
    assert machine.usable_memory() > 0
