# SPDX-License-Identifier: Apache-2.0
"""What several rooms share: a reporter and control without a service, and a small stand-in for SmolLM2."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finetree_data.weights.fingerprint import fingerprint
from finetree_worker.atomic_files import read_manifest, seal
from finetree_worker.control import Signal
from safetensors.numpy import save_file


class Quiet:
    """Keeps what is reported; never asks for anything."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def emit(self, payload: Any, **_: Any) -> None:
        self.events.append(payload)

    def poll(self) -> Signal:
        return Signal.NONE

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def quiet() -> Quiet:
    return Quiet()


SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
"""What a small stand-in for the real model has in place of its 30 layers."""


def write_small(model: Path, folder: Path) -> None:
    """Write a prepared model again, with random weights of `SHAPE`."""
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("model.safetensors", "base.json", "manifest.json"))
    config = json.loads((model / "config.json").read_text(encoding="utf-8")) | SHAPE
    config["dtype"] = config["torch_dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    width, inner, key = SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["head_dim"]
    attention = {"q_proj": (width, width), "k_proj": (key, width), "v_proj": (key, width), "o_proj": (width, width)}
    mlp = {"gate_proj": (inner, width), "up_proj": (inner, width), "down_proj": (width, inner)}
    shapes = {"model.embed_tokens": (config["vocab_size"], width), "model.norm": (width,)}
    for layer in (f"model.layers.{number}" for number in range(SHAPE["num_hidden_layers"])):
        shapes |= {f"{layer}.self_attn.{name}": shape for name, shape in attention.items()}
        shapes |= {f"{layer}.mlp.{name}": shape for name, shape in mlp.items()}
        shapes |= {f"{layer}.{name}": (width,) for name in ("input_layernorm", "post_attention_layernorm")}
    random = np.random.default_rng(0)
    tensors = {
        f"{name}.weight": random.normal(0, 0.02, shape) if len(shape) == 2 else np.ones(shape)
        for name, shape in shapes.items()
    }
    as_float32 = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    save_file(as_float32, folder / "model.safetensors", {"format": "pt"})
    (folder / "base.json").write_text(json.dumps({"fingerprint": fingerprint(folder)}), encoding="utf-8")
    facts = read_manifest(model)
    assert facts is not None
    facts.pop("files")
    seal(folder, facts)


@pytest.fixture(scope="session")
def small_smollm2(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `smollm2`'s, of the same name and tokenizer, with which a step takes milliseconds.

    For pages and programs that are run as they stand, and say nothing of what a model has learned.
    """
    folder = tmp_path_factory.mktemp("small") / smollm2.name
    write_small(smollm2, folder)
    return folder
