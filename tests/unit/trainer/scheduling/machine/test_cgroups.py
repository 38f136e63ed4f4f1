# SPDX-License-Identifier: Apache-2.0
"""Limits of control groups, from trees of files as the kernel has them."""

import pytest
from finetree_trainer.scheduling.machine.cgroups import ControlGroups, MemoryLimit
from finetree_trainer.scheduling.machine.cores import usable_cores

GIB = 1 << 30


@pytest.fixture
def groups(tmp_path):
    """`groups(membership, {path: content})`: the groups of a process."""

    def make(membership: str, files: dict[str, object]) -> ControlGroups:
        (tmp_path / "cgroup").write_text(membership)
        for name, content in files.items():
            (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "fs" / name).write_text(f"{content}\n")
        return ControlGroups(tmp_path / "fs", tmp_path / "cgroup")

    return make


def test_the_tightest_limit_up_to_the_root_counts_and_pages_of_files_are_free(groups):
    found = groups(
        "0::/a/b\n",
        {
            "a/memory.max": 4 * GIB,
            "a/memory.current": 3 * GIB,
            "a/memory.stat": f"anon 5\ninactive_file {GIB}\nactive_file 7",
            "a/memory.swap.max": 64 * GIB,
            "a/b/memory.max": "max",
            "a/b/memory.high": 2 * GIB,
            "a/b/memory.current": GIB,
            "a/cpu.max": "150000 100000",
            "a/b/cpu.max": "max 100000",
        },
    )
    assert found.memory() == [MemoryLimit(2 * GIB, GIB), MemoryLimit(4 * GIB, 2 * GIB)]
    assert found.processors() == 1.5
    assert usable_cores(found) == 1


def test_a_container_sees_its_own_group_as_the_root(groups):
    found = groups("0::/\n", {"memory.max": GIB, "memory.current": 2 * GIB, "cpu.max": "50000 100000"})
    assert found.memory() == [MemoryLimit(GIB, 0)]
    assert usable_cores(found) == 1
    # Named from outside, where the name is not mounted.
    assert groups("0::/docker/0123\n", {}).memory() == [MemoryLimit(GIB, 0)]


def test_version_1_has_a_tree_for_each_controller(groups):
    found = groups(
        "4:memory:/job\n2:cpu,cpuacct:/\n0::/\n",
        {
            "memory/memory.limit_in_bytes": 2**63 - 4096,
            "memory/job/memory.limit_in_bytes": 2 * GIB,
            "memory/job/memory.usage_in_bytes": GIB,
            "memory/job/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 2}",
            "cpu/cpu.cfs_quota_us": 250000,
            "cpu/cpu.cfs_period_us": 100000,
        },
    )
    assert found.memory() == [MemoryLimit(2 * GIB, 2 * GIB - GIB // 2)]
    assert found.processors() == 2.5


def test_without_limits_there_are_none(groups):
    found = groups("0::/\n", {"cpu.max": "max 100000"})
    assert (found.memory(), found.processors()) == ([], float("inf"))
    assert groups("", {}).memory() == []
