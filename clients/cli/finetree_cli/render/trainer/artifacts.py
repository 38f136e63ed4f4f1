# SPDX-License-Identifier: Apache-2.0
"""What to do with a downloaded artifact: how Python, vLLM and llama.cpp load it."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import serving_pb2

from finetree_cli.output import Output
from finetree_cli.render import units

VLLM_RANKS = (16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's --max-lora-rank from its default on (vllm/config/lora.py)."""


def show_next(out: Output, artifact: artifact_pb2.Artifact, folder: Path) -> None:
    """Print on stderr what loads the artifact in `folder`: at most three commands, and why a program does not."""
    for tried in artifact.compat:
        if not tried.loads:
            out.say(f"  {units.word(serving_pb2.ServingTarget, tried.server)} does not load it: {tried.reason}")
    for program, command in next_commands(artifact, folder):
        out.say(f"  {program:<10} {command}")


def next_commands(artifact: artifact_pb2.Artifact, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each program that loads what is in `folder`, with the line that does it."""
    path = shlex.quote(str(folder))
    if any(not tried.loads for tried in artifact.compat):
        return
    if artifact.kind == artifact_pb2.ARTIFACT_KIND_MODEL:
        yield "Python", _loaded("transformers", "AutoModelForCausalLM", folder)
        yield "vLLM", f"vllm serve {path}"
        yield "llama.cpp", f"python convert_hf_to_gguf.py {path}"
    elif artifact.peft_type:
        yield "Python", _loaded("peft", "AutoPeftModelForCausalLM", folder)
        config = _config(folder)
        # vLLM loads no DoRA, no module that is saved whole, and no trained prefix; llama.cpp's converter neither.
        if artifact.peft_type == "LORA" and config and not (config.get("use_dora") or config.get("modules_to_save")):
            base = shlex.quote(artifact.base.hub_id or "BASE")
            yield "vLLM", f"vllm serve {base} --enable-lora{_rank(config)} --lora-modules tuned={path}"
            yield "llama.cpp", f"python convert_lora_to_gguf.py {path}"
    elif artifact.kind == artifact_pb2.ARTIFACT_KIND_ADAPTER:
        load = f"adapter.load(model, Path({str(folder)!r}))"
        yield "Python", f"from finetree_worker.methods import adapter; {load}  # docs/adapter-format.md"


def _loaded(package: str, name: str, folder: Path) -> str:
    return f"from {package} import {name}; model = {name}.from_pretrained({str(folder)!r})"


def _config(folder: Path) -> dict[str, Any]:
    """Return the adapter's configuration; nothing where it is none, so that no command is built on it."""
    try:
        found = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _rank(config: dict[str, Any]) -> str:
    """The option for the largest rank of any module, where vLLM's default is less."""
    largest = max([config.get("r", 0), *(config.get("rank_pattern") or {}).values()])
    needed = next((rank for rank in VLLM_RANKS if rank >= largest), VLLM_RANKS[-1])
    return f" --max-lora-rank {needed}" if needed > VLLM_RANKS[0] else ""
