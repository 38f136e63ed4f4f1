# SPDX-License-Identifier: Apache-2.0
"""Files of weights as libraries write them, made without those libraries."""

import hashlib
import json
from pathlib import Path
from typing import Any

A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
B = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
LAYER = "model.layers.0.self_attn.q_proj.weight"


def safetensors(tensors: dict[str, tuple[int, ...]], *, fill: int = 0) -> bytes:
    """A file of float32 tensors of these shapes, whose numbers are all the same bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        size = 4
        for side in shape:
            size *= side
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes([fill]) * end


def peft_adapter(folder: Path, **config: Any) -> Path:
    """A LoRA adapter of rank 2 on one layer of 6 inputs and 4 outputs."""
    folder.mkdir()
    content = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(content))
    (folder / "adapter_model.safetensors").write_bytes(safetensors({A: (2, 6), B: (4, 2)}))
    return folder


def base_model(folder: Path, *, inputs: int = 6, outputs: int = 4, **config: Any) -> Path:
    """A base model's folder with one layer."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": inputs, **config}))
    (folder / "model.safetensors").write_bytes(safetensors({LAYER: (outputs, inputs)}))
    return folder


def checkpoint(folder: Path, step: int, tensors: dict[str, tuple[int, ...]] | None = None) -> Path:
    """A checkpoint as the worker leaves it."""
    made = folder / f"step-{step:08d}"
    made.mkdir(parents=True)
    (made / "weights.safetensors").write_bytes(safetensors(tensors or {A: (2, 6)}))
    names = {name: name.replace(".default", "") for name in tensors or {A: (2, 6)}}
    form = {"names": names, "weights_file": "adapter_model.safetensors", "config_file": "adapter_config.json"}
    (made / "portable.json").write_text(json.dumps(form | {"config": {"peft_type": "LORA", "r": 2}}))
    for name in ("optimizer.safetensors", "state.json"):
        (made / name).write_bytes(b"{}")
    files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in made.iterdir()}
    (made / "manifest.json").write_text(json.dumps({"format": 1, "step": step, "files": files}))
    return made
