# SPDX-License-Identifier: Apache-2.0
"""What to do with a downloaded artifact: the commands that ask it, load it in Python, merge it, and serve it."""

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import serving_pb2

from finetree_cli.output import Output
from finetree_cli.render import units
from finetree_cli.render.recommender.serving import short_lines

LANGUAGE = "AutoModelForCausalLM"
"""Class of transformers that loads language models."""
VLLM_RANKS = (16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's --max-lora-rank from its default on (vllm/config/lora.py)."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command line, and what it does in a word."""

    purpose: str
    line: str


def show_next(out: Output, artifact: artifact_pb2.Artifact, folder: Path) -> None:
    """Print on stderr what loads the artifact in `folder`, and which versions do, or why a program does not."""
    for line in next_lines(artifact, folder):
        out.say(line)


def next_lines(artifact: artifact_pb2.Artifact, folder: Path) -> Iterator[str]:
    """Yield the lines of `show_next`."""
    for tried in artifact.compat:
        server = units.word(serving_pb2.ServingTarget, tried.server)
        if not tried.loads:
            yield f"  {server} does not load it: {tried.reason}"
        elif tried.reason:
            yield f"  {tried.reason}"
    for command in next_commands(artifact, folder):
        yield f"  {command.purpose:<9} {command.line}"
    for line in short_lines(artifact.serving):
        yield f"  {line}"


def next_commands(artifact: artifact_pb2.Artifact, folder: Path) -> Iterator[Command]:
    """Yield what to type next, by the method that made the artifact; nothing for what does not load."""
    if any(not tried.loads for tried in artifact.compat):
        return
    if job_of(artifact) and artifact.kind == artifact_pb2.ARTIFACT_KIND_ADAPTER:
        yield Command("chat", f"finetree chat {job_of(artifact)}")
    if artifact.kind == artifact_pb2.ARTIFACT_KIND_MODEL:
        yield Command("load", _python(_loaded(artifact, folder)))
        yield from _served(artifact, folder)
    elif artifact.peft_type:
        yield from _adapter_commands(artifact, folder)
    elif artifact.kind == artifact_pb2.ARTIFACT_KIND_ADAPTER:
        base = artifact.base.hub_id or "BASE"
        auto = _auto_class(artifact)
        code = (
            f"from pathlib import Path; from transformers import {auto}; "
            "from finetree_worker.methods import adapter; "
            f"adapter.load({auto}.from_pretrained({base!r}), Path({str(folder)!r}))"
        )
        yield Command("load", f"{_python(code)}  # docs/adapter-format.md")


def _adapter_commands(artifact: artifact_pb2.Artifact, folder: Path) -> Iterator[Command]:
    """Yield the commands for an artifact of peft's formats."""
    yield Command("load", _python(_adapted(artifact, folder)))
    if artifact.peft_type != "LORA":
        # A trained prefix is in no weight, so nothing can be merged; neither vLLM nor llama.cpp loads one.
        return
    config = _config(folder)
    merged = folder.with_name(f"{folder.name}-merged")
    if config and not (config.get("use_dora") or config.get("modules_to_save")):
        base = shlex.quote(artifact.base.hub_id or "BASE")
        path = shlex.quote(str(folder))
        yield Command("serve", f"vllm serve {base} --enable-lora{_rank(config)} --lora-modules tuned={path}")
        yield Command("merge", _python(_merge(artifact, folder, merged)))
        return
    # vLLM loads neither DoRA nor modules that are saved whole; merged, they are weights like any others.
    yield Command("merge", _python(_merge(artifact, folder, merged)))
    yield from _served(artifact, merged)


def _served(artifact: artifact_pb2.Artifact, folder: Path) -> Iterator[Command]:
    """Yield what serves a whole model: vLLM on a GPU, llama.cpp anywhere."""
    path = shlex.quote(str(folder))
    yield Command("serve", f"vllm serve {path}")
    if (job := job_of(artifact)) and not _reads_images(artifact):
        yield Command("export", f"finetree export {job} --format gguf --output {path}-gguf  # for llama.cpp and Ollama")


def job_of(artifact: artifact_pb2.Artifact) -> str:
    """Return the id of the job that made an artifact; empty where it has no resource name."""
    collection, _, rest = artifact.name.partition("/jobs/")
    return rest.partition("/")[0] if collection else ""


def _auto_class(artifact: artifact_pb2.Artifact) -> str:
    named = artifact.base.auto_class
    return named if named.isidentifier() else LANGUAGE


def _reads_images(artifact: artifact_pb2.Artifact) -> bool:
    """Whether the base is none of transformers' language models: peft's short way, pipelines and GGUF are for those."""
    return _auto_class(artifact) != LANGUAGE


def _adapted(artifact: artifact_pb2.Artifact, folder: Path) -> str:
    """The code that names an adapted model `model`."""
    if not _reads_images(artifact):
        return f"from peft import AutoPeftModelForCausalLM as Model; model = Model.from_pretrained({str(folder)!r})"
    base = f"Base.from_pretrained({artifact.base.hub_id or 'BASE'!r})"
    return (
        f"from peft import PeftModel; from transformers import {_auto_class(artifact)} as Base; "
        f"model = PeftModel.from_pretrained({base}, {str(folder)!r})"
    )


def _merge(artifact: artifact_pb2.Artifact, folder: Path, merged: Path) -> str:
    return (
        f"{_adapted(artifact, folder)}; from transformers import AutoTokenizer as Tokens; "
        f"model.merge_and_unload().save_pretrained({str(merged)!r}); "
        f"Tokens.from_pretrained({str(folder)!r}).save_pretrained({str(merged)!r})"
    )


def _loaded(artifact: artifact_pb2.Artifact, folder: Path) -> str:
    if not _reads_images(artifact):
        return f"from transformers import pipeline; print(pipeline('text-generation', {str(folder)!r})('Hello'))"
    return f"from transformers import {_auto_class(artifact)} as Model; model = Model.from_pretrained({str(folder)!r})"


def _python(code: str) -> str:
    # In double quotes, which are easier to read beside Python's own, where nothing in them is special to a shell.
    special = any(letter in code for letter in '"$`\\!')
    return f"python -c {shlex.quote(code)}" if special else f'python -c "{code}"'


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
