# SPDX-License-Identifier: Apache-2.0
"""The rules that a worker's confinement is made of: what is in them, and what is not."""

import sys
from pathlib import Path

import pytest
from finetree_data.confinement import places
from finetree_data.confinement.landlock import DEVICE, READ, RUN, TEMPORARY, WRITE, Access
from finetree_data.confinement.policy import Policy

POLICY = Policy(read=("/data/models",), write=("/data/jobs",), temporary="/data/w/tmp", sockets=("/data/run",))
NONE = Access(0)


def built(environment: dict[str, str] | None = None, dev: Path = Path("/nowhere")) -> dict[str, Access]:
    found: dict[str, Access] = {}
    for rule in places.rules(POLICY, environment or {}, dev=dev):
        found[rule.path] = found.get(rule.path, NONE) | rule.access
    return found


def test_a_task_reads_its_inputs_and_writes_its_own_folders():
    rules = built()
    assert rules["/data/models"] == READ
    assert rules["/data/jobs"] == WRITE
    assert rules["/data/w/tmp"] == TEMPORARY
    assert rules["/data/run"] == Access.RESOLVE_UNIX


def test_nothing_that_can_be_written_to_can_hold_a_link_a_device_or_a_program():
    writable = {path: access for path, access in built().items() if access & Access.WRITE_FILE}
    forbidden = Access.MAKE_SYM | Access.MAKE_CHAR | Access.MAKE_BLOCK | Access.EXECUTE
    assert writable
    assert not {path for path, access in writable.items() if access & forbidden}


def test_python_and_its_packages_can_be_read_and_run():
    rules = built()
    for folder in {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), Path(places.__file__).parents[2]}:
        assert rules[str(folder)] == RUN


@pytest.mark.parametrize(
    "path", ["/", "/etc", "/home", "/root", "/tmp", "/var", "/run", "/dev", "/data", "/etc/shadow"]
)
def test_what_no_task_needs_is_in_no_rule(path):
    assert path not in built()


def test_a_gpu_can_be_used_where_there_is_one(tmp_path):
    for name in ("nvidiactl", "nvidia0", "nvidia11", "nvidia-uvm", "null", "sda"):
        (tmp_path / name).touch()
    rules = built(dev=tmp_path)
    for name in ("nvidiactl", "nvidia0", "nvidia11", "nvidia-uvm"):
        assert rules[str(tmp_path / name)] & DEVICE == DEVICE
    assert "/run/nvidia-persistenced" in rules
    assert str(tmp_path / "sda") not in rules
    assert "/tmp/mps" in built({"CUDA_MPS_PIPE_DIRECTORY": "/tmp/mps"}, tmp_path)


def test_a_machine_without_a_gpu_opens_none_of_its_drivers_folders():
    assert not any("nvidia-persistenced" in path or "mps" in path for path in built())


def test_a_cache_of_kernels_that_the_operator_names_is_shared_and_else_there_is_none():
    assert built({"TRITON_CACHE_DIR": "/var/cache/triton"})["/var/cache/triton"] == RUN | WRITE
    assert not any("triton" in path for path in built())
