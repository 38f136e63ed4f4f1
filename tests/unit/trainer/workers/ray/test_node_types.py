# SPDX-License-Identifier: Apache-2.0
"""The file of node types: what it means, and what is refused."""

import pytest
from finetree_runtime.config.settings import SettingsError
from finetree_trainer.scheduling.autoscaling.node_types import NodeType
from finetree_trainer.settings import Settings
from finetree_trainer.workers.ray.node_types import read_node_types

GB = 1_000_000_000
SMALL = 'cpus = 4\nmemory = "16GB"\nmaximum = 3\n'
GPU = 'cpus = 16\nmemory = "120GB"\ngpus = 2\naccelerator = "a100-80gb"\ngpu_memory = "80GB"\nmaximum = 8\n'


@pytest.fixture
def read(tmp_path):
    def made(text: str, **changes: object) -> tuple[NodeType, ...]:
        file = tmp_path / "nodes.toml"
        file.write_text(text)
        required = changes.pop("required", {})
        return read_node_types(Settings(ray_node_types_file=file, **changes), required)

    return made


def test_no_file_is_no_types():
    assert read_node_types(Settings(), {}) == ()


def test_types_have_the_devices_that_jobs_will_find(read):
    small, gpu = read(f"[small]\n{SMALL}[gpu]\n{GPU}resources = {{a100 = 1}}\n", cpu_slots=2)
    assert (small.name, small.maximum, small.resources) == ("small", 3, {"CPU": 4.0})
    assert (small.cpu.slot_count, small.cpu.threads, small.cpu.total_bytes) == (2, 2, 16 * GB)
    assert gpu.resources == {"CPU": 16.0, "GPU": 2.0, "a100": 1.0}
    assert [(device.id, device.kind, device.total_bytes) for device in gpu.devices] == [
        ("gpu0", "a100-80gb", 80 * GB),
        ("gpu1", "a100-80gb", 80 * GB),
        ("cpu", "cpu", 120 * GB),
    ]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "has no type"),
        ("[small]\ncpus = \nmaximum = 3\n", "line 2"),
        ("small = 1", "small: is not a table"),
        ('["a b"]\n' + SMALL, "'a b': a name has"),
        ("[small]\n" + SMALL + "cpu = 4\n", "small.cpu: is none of cpus, memory"),
        ("[small]\ncpus = 4\nmaximum = 3\n", "small.memory: is needed"),
        ("[small]\n" + SMALL.replace("4", "0", 1), "small.cpus: is not a whole number from 1"),
        ("[small]\n" + SMALL.replace("3", "true"), "small.maximum: is not a whole number"),
        ("[small]\n" + SMALL.replace("16GB", "much"), "small.memory: "),
        ("[small]\n" + SMALL + "gpus = 1\n", "small.accelerator: goes with gpus"),
        ("[small]\n" + SMALL + "resources = {CPU = 1}\n", "small.resources.CPU: is none of one's own"),
        ("[small]\n" + SMALL + "resources = {big = -1}\n", "small.resources.big: is not a number above 0"),
        (f"[a]\n{GPU}[b]\n{GPU.replace('a100', 'h100')}", "a: Ray may start a node of type b in place of one of it"),
    ],
)
def test_what_is_wrong_is_named_by_its_key(read, text: str, named: str):
    with pytest.raises(SettingsError, match="ray_node_types_file: ") as refused:
        read(text)
    assert refused.value.reason == "SETTING_INVALID"
    assert named in str(refused.value)


def test_types_of_other_gpus_are_told_apart_by_a_resource(read):
    other = GPU.replace("a100", "h100")
    types = read(f"[a]\n{GPU}resources = {{a100 = 1}}\n[b]\n{other}resources = {{h100 = 1}}\n")
    assert [type_.name for type_ in types] == ["a", "b"]


def test_a_type_that_no_worker_would_run_on_is_refused(read):
    assert read(f"[small]\n{SMALL}resources = {{near = 2}}\n", required={"near": 1.0})
    with pytest.raises(SettingsError, match=r"small\.resources: has not what --ray-resources"):
        read(f"[small]\n{SMALL}", required={"near": 1.0})
