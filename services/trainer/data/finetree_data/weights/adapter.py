# SPDX-License-Identifier: Apache-2.0
"""Adapters on disk: in peft's format, or bottleneck layers in this suite's own (docs/adapter-format.md).

Nothing of them is executed: the configuration is JSON, the weights are safetensors, and a pickle is never opened.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetree_api.trainer.v1 import artifact_pb2
from google.protobuf import json_format

from finetree_data.weights.errors import WeightsError
from finetree_data.weights.safetensors_file import StoredTensor, read_header

CONFIG = "adapter_config.json"
"""Name of an adapter's configuration, in peft's format and in this suite's own."""
PEFT_WEIGHTS = "adapter_model.safetensors"
"""Name of the weights in peft's format."""
BOTTLENECK_WEIGHTS = "adapter.safetensors"
"""Name of the weights of bottleneck layers."""
BOTTLENECK_FORMAT = "finetree-bottleneck-1"
"""Name and version of the format of bottleneck layers."""
MANIFEST = "finetree.json"
"""Name of an artifact's manifest: the Artifact message as proto JSON."""
PEFT_METHODS = {"LORA": "lora", "PREFIX_TUNING": "prefix"}
"""Methods, by their field in RunSpec, of the kinds of adapters in peft's format that can be used."""
_CHANGING_THE_BASE = frozenset({"pissa", "olora", "corda", "loftq", "lora_ga"})
"""Values of peft's init_lora_weights that subtract the start of the adapter from the base (peft 0.21.2, lora/layer.py).
Their adapters are written as differences to that base, unless they were converted."""
_PICKLED = (".bin", ".pt", ".pth", ".ckpt")
_MAX_CONFIG_BYTES = 1024 * 1024
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """An adapter on disk: its method by the field in RunSpec ("lora" also for QLoRA's), configuration and tensors."""

    folder: Path
    method: str
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]
    base: artifact_pb2.ArtifactBase
    """The base that it names; fields that it does not state, or by a local path only, are empty."""

    @property
    def weights(self) -> Path:
        """The file of its weights."""
        return self.folder / _weights_name(self.method)


def read_adapter(folder: Path) -> AdapterFolder:
    """Read an adapter's configuration and the header of its weights.

    Raises WeightsError: WEIGHTS_UNREADABLE where there is none, it is damaged, or of another kind than those of
    PEFT_METHODS and bottleneck layers; MODEL_PICKLED where its weights are a pickle alone.
    """
    config = _config(folder)
    method = _method(config)
    file = folder / _weights_name(method)
    if not file.is_file():
        raise _no_weights(folder, file.name)
    return AdapterFolder(folder, method, config, read_header(file), _base(folder, config, method))


def content_hash(adapter: AdapterFolder) -> str:
    """Return the sha256 (hex) of an adapter's content: of an artifact's folder that of its manifest.

    Both files are read whole. Elsewhere it is the hash of a JSON object of the hashes of configuration and weights, so
    that a folder which was moved or renamed keeps it. Raises WeightsError for an artifact whose files differ from its
    manifest.
    """
    names = (CONFIG, adapter.weights.name)
    try:
        found = {name: _file_hash(adapter.folder / name) for name in names}
        manifest = adapter.folder / MANIFEST
        if not manifest.is_file():
            return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
        content = manifest.read_bytes()
    except OSError as error:
        raise WeightsError("cannot be read", remedy="Give the service the right to read it.") from error
    described = _manifest(content)
    stated = {file.path: file.sha256 for file in described.files} if described is not None else {}
    if any(stated.get(name) != sha256 for name, sha256 in found.items()):
        remedy = f"Fetch the artifact again, whole; or remove {MANIFEST} if it was changed on purpose."
        raise WeightsError(f"has files that differ from its {MANIFEST}", remedy=remedy)
    return hashlib.sha256(content).hexdigest()


def _config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    if not file.is_file():
        pickled = _pickles(folder)
        if pickled:
            raise _pickled(pickled)
        raise WeightsError(f"is no adapter (it has no {CONFIG})", remedy="Name the folder that peft has saved.")
    try:
        # A longer file is cut, and so no JSON.
        with file.open("rb") as stream:
            config = json.loads(stream.read(_MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise WeightsError(f"has a damaged {CONFIG}", remedy="Fetch the file again.")
    return config


def _method(config: dict[str, Any]) -> str:
    if "format" in config:
        if config["format"] != BOTTLENECK_FORMAT:
            text = f"is of the format {str(config['format'])[:40]!r}, which this version does not know"
            raise WeightsError(text, remedy="Upgrade the suite.")
        return "adapter"
    kind = str(config.get("peft_type", ""))
    if kind not in PEFT_METHODS:
        have = ", ".join(PEFT_METHODS)
        text = f"is an adapter of the kind {kind[:40] or 'unknown'!r}; those that can be used are {have}"
        raise WeightsError(text, remedy="Use an adapter of one of these kinds.")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.partition("_niter_")[0] in _CHANGING_THE_BASE:
        text = f"was trained on a base that its start ({start[:20]}) had changed, so it does not fit the base itself"
        raise WeightsError(text, remedy="Convert it with peft's path_initial_model_for_weight_conversion.")
    return PEFT_METHODS[kind]


def _weights_name(method: str) -> str:
    return BOTTLENECK_WEIGHTS if method == "adapter" else PEFT_WEIGHTS


def _no_weights(folder: Path, name: str) -> WeightsError:
    pickled = _pickles(folder)
    if pickled:
        return _pickled(pickled)
    return WeightsError(f"has no weights ({name})", remedy="Fetch the adapter again, whole.")


def _pickles(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLED)
    except OSError:
        return []


def _pickled(names: list[str]) -> WeightsError:
    return WeightsError(
        f"has its weights only as a pickle ({names[0][:80]}), and reading a pickle can run any code",
        remedy="Convert it where you trust it: load it with peft there and save it with safe_serialization=True.",
        reason="MODEL_PICKLED",
    )


def _base(folder: Path, config: dict[str, Any], method: str) -> artifact_pb2.ArtifactBase:
    try:
        described = _manifest((folder / MANIFEST).read_bytes())
    except OSError:
        described = None
    if described is not None and described.base.ByteSize():
        return described.base
    if method == "adapter":
        own = config.get("base")
        stated = own if isinstance(own, dict) else {}
        fields = {name: stated.get(name) for name in ("hub_id", "revision", "fingerprint")}
        return artifact_pb2.ArtifactBase(**{name: value for name, value in fields.items() if isinstance(value, str)})
    # Others write a folder of their machine here as often as a hub id; a folder tells nothing.
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    return artifact_pb2.ArtifactBase(
        hub_id=name if isinstance(name, str) and _HUB_ID.fullmatch(name) else "",
        revision=revision if isinstance(revision, str) and _COMMIT.fullmatch(revision) else "",
    )


def _manifest(content: bytes) -> artifact_pb2.Artifact | None:
    try:
        return json_format.Parse(content, artifact_pb2.Artifact(), ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError, RecursionError):
        return None


def _file_hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
