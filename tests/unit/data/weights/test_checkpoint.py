# SPDX-License-Identifier: Apache-2.0
"""Checkpoints on disk: whole ones are read, others refused."""

import hashlib

import pytest
from finetree_data.weights.checkpoint import read_checkpoint, steps
from finetree_data.weights.errors import WeightsError
from weight_files import checkpoint


def test_a_whole_checkpoint_has_its_step_size_and_hash(tmp_path):
    folder = checkpoint(tmp_path, 7)
    found = read_checkpoint(folder)
    content = (folder / "manifest.json").read_bytes()
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert (found.step, found.sha256, found.size_bytes) == (7, hashlib.sha256(content).hexdigest(), size)


def test_steps_are_those_of_folders_in_order(tmp_path):
    for step in (20, 3, 100_000_000):
        checkpoint(tmp_path, step)
    (tmp_path / ".step-00000009.77.tmp").mkdir()
    (tmp_path / "best.json").write_text("{}")
    assert steps(tmp_path) == [3, 20, 100_000_000]
    assert steps(tmp_path / "nothing") == []


@pytest.mark.parametrize("damage", ["no manifest", "bad manifest", "no file", "cut off", "no weights"])
def test_a_checkpoint_that_is_not_whole_is_refused(tmp_path, damage):
    folder = checkpoint(tmp_path, 7)
    weights, manifest = folder / "weights.safetensors", folder / "manifest.json"
    match damage:
        case "no manifest":
            manifest.unlink()
        case "bad manifest":
            manifest.write_text("[]")
        case "no file":
            weights.unlink()
        case "cut off":
            weights.write_bytes(weights.read_bytes()[:-1])
        case _:
            manifest.write_text('{"step": 7, "files": {}}')
    with pytest.raises(WeightsError):
        read_checkpoint(folder)
