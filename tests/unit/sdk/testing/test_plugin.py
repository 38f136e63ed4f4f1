# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: a suite for a test, which clients find by themselves; nothing is loaded without it."""

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[4]
USES = """
import sys

import finetree


def test_nothing_is_loaded_before():
    assert "grpc" not in sys.modules


def test_a_job_is_trained(finetree_suite):
    data = finetree_suite.datasets.add([{"prompt": "a", "completion": "b"}])
    with finetree.Client() as client:
        job = client.train({"model": {"name": "tiny"}, "lora": {}, "dataset": {"name": data.name}})
        assert job.wait(check=True).progress.step == 10
    assert len(finetree_suite.faults.calls("CreateJob")) == 1


def test_each_test_has_its_own(finetree_suite):
    assert finetree_suite.faults.calls() == []
"""


def test_the_fixture_gives_a_suite_that_clients_find(tmp_path):
    (tmp_path / "test_uses.py").write_text(USES, encoding="utf-8")
    # By its module, since an environment may be older than the entry point that names it.
    plugin = ["-p", "no:finetree", "-p", "finetree.testing.plugin", "-p", "no:xdist", "-p", "no:randomly"]
    command = [sys.executable, "-m", "pytest", "-q", *plugin, "--rootdir", str(tmp_path), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 passed" in ran.stdout


def test_the_distribution_names_it():
    described = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text(encoding="utf-8"))
    (point,) = described["project"]["entry-points"]["pytest11"].items()
    loaded = metadata.EntryPoint(*point, "pytest11").load()
    assert hasattr(loaded, "finetree_suite")
