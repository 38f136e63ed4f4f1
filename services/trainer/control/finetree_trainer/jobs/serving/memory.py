# SPDX-License-Identifier: Apache-2.0
"""Memory that a served base model needs, from its config.json and the headers of its files, before anything is loaded.

Weights: the elements of all tensors, in the precision that is asked for; where it is quantized, the matrices of the
layers in the format of bitsandbytes, the rest (embeddings, head, norms) in that precision. On a CPU a head that shares
the matrix of the embeddings has a copy of it, in the layout of the matrix kernels (docs/decisions/0037). Key-value
cache: 2 (keys and values) x layers x key-value heads x head width x bytes, for each token of each sequence that is
decoded together, as if all of them filled the context (a sliding window needs less). Working memory: the logits of one
token of each sequence in float32, and what a layer holds while the longest prompt passes through it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetree.display.units import GIB
from finetree_api.trainer.v1 import artifact_pb2, serving_pb2
from finetree_api.types.v1 import method_pb2, training_pb2
from finetree_data.weights import checkpoint
from finetree_data.weights.errors import WeightsError
from finetree_data.weights.safetensors_file import StoredTensor, read_header

from finetree_trainer.models.json_file import json_object
from finetree_trainer.models.weights import LocatedWeights

PROCESS_BYTES = {"cpu": 900_000_000, "cuda": 600_000_000}
"""Of a process with the libraries loaded, before the model: on a CPU its resident memory, as PREPARE_BYTES of the queue
has it; on a GPU the CUDA context with cuBLAS's workspace, on the device."""

_ELEMENT_BYTES = {training_pb2.PRECISION_BF16: 2.0, training_pb2.PRECISION_FP32: 4.0}
_QUANTIZED_BYTES = {
    # Half a byte, and a float32 scale for each block of 64 (bitsandbytes, without double quantization).
    method_pb2.QUANTIZATION_NF4: 0.5 + 4 / 64,
    method_pb2.QUANTIZATION_FP4: 0.5 + 4 / 64,
    # A byte; the float32 scale of a row is less than a thousandth of it.
    method_pb2.QUANTIZATION_INT8: 1.0,
}
_HEADS = frozenset({"lm_head.weight", "embed_out.weight", "output.weight"})
"""Names of a head of its own, in transformers' models."""
_HIDDEN_COPIES = 8
"""Activations as wide as the residual stream that a layer holds at once: residual, norm, queries, keys, values, output
of attention, projection, sum."""
_INNER_COPIES = 3
"""Activations as wide as the MLP's inner layer: gate, up, product."""


@dataclass(frozen=True, slots=True)
class Served:
    """A base model as it would be served."""

    precision: training_pb2.Precision.ValueType
    quantization: method_pb2.Quantization.ValueType
    max_context_tokens: int
    max_parallel: int
    targets_bytes: int
    """Sum of `target_bytes`; adapters are loaded as they are stored, or smaller."""


@dataclass(frozen=True, slots=True)
class ServingMemory:
    """Bytes by what they are for."""

    weights: int
    targets: int
    cache: int
    working: int
    process: int

    @property
    def total(self) -> int:
        """All of it, bytes."""
        return self.weights + self.targets + self.cache + self.working + self.process

    def in_words(self) -> str:
        """The parts, in GiB, for people."""
        parts = {
            "weights": self.weights,
            "targets": self.targets,
            "key-value cache": self.cache,
            "activations": self.working,
            "process": self.process,
        }
        return ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items() if size)


def memory_of(folder: Path, served: Served, *, device: str) -> ServingMemory:
    """Compute the memory of a prepared model in a folder; `device` is "cpu" or "cuda".

    What its config.json does not say counts nothing: the worker that loads the model reports what is wrong with it.
    """
    config = _decoder(json_object(folder / "config.json"))
    heads, hidden = _positive(config, "num_attention_heads", "n_head"), _positive(config, "hidden_size", "n_embd")
    layers, vocabulary = _positive(config, "num_hidden_layers", "n_layer"), _positive(config, "vocab_size")
    width = _positive(config, "head_dim") or hidden // max(1, heads)
    kv_width = (_positive(config, "num_key_value_heads") or heads) * width
    inner = _positive(config, "intermediate_size", "n_inner") or 4 * hidden
    element = _ELEMENT_BYTES[served.precision]
    context, parallel = served.max_context_tokens, served.max_parallel
    activations = context * (_HIDDEN_COPIES * hidden + _INNER_COPIES * inner) * element
    return ServingMemory(
        weights=_weights_bytes(
            _headers(folder.glob("*.safetensors")),
            precision=served.precision,
            quantization=served.quantization,
            copied_head=vocabulary * hidden if device == "cpu" else 0,
        ),
        targets=served.targets_bytes,
        cache=int(2 * layers * kv_width * element) * context * parallel,
        working=int(activations) + parallel * vocabulary * 4,
        process=PROCESS_BYTES[device],
    )


def target_bytes(weights: LocatedWeights, task: serving_pb2.ServeTask) -> int:
    """Bytes of a target on the device: of an adapter those of its files, of a whole model those of a second base.

    A checkpoint's optimizer states are not loaded.
    """
    folder = weights.folder
    files = [folder / checkpoint.WEIGHTS] if weights.checkpoint else [*folder.glob("*.safetensors")]
    if weights.kind != artifact_pb2.ARTIFACT_KIND_MODEL:
        return sum(file.stat().st_size for file in files)
    headers = [*_headers(files)]
    embeddings = [_elements(each) for header in headers for name, each in header.items() if not _in_layers(name)]
    copied = max(embeddings, default=0) if task.hardware.HasField("cpu") else 0
    return _weights_bytes(headers, precision=task.precision, quantization=task.quantization, copied_head=copied)


def _headers(files: Iterable[Path]) -> Iterator[dict[str, StoredTensor]]:
    for file in files:
        try:
            yield read_header(file)
        except WeightsError:
            continue


def _weights_bytes(
    headers: Iterable[Mapping[str, StoredTensor]],
    *,
    precision: training_pb2.Precision.ValueType,
    quantization: method_pb2.Quantization.ValueType,
    copied_head: int,
) -> int:
    """Add up the tensors of the files; `copied_head` are the elements of a head that the files do not have."""
    element = _ELEMENT_BYTES[precision]
    total, own_head = 0.0, False
    for header in headers:
        for name, tensor in header.items():
            total += _elements(tensor) * _bytes_of(name, tensor, quantization, element)
            own_head = own_head or name in _HEADS
    return int(total if own_head else total + copied_head * element)


def _bytes_of(
    name: str, tensor: StoredTensor, quantization: method_pb2.Quantization.ValueType, element: float
) -> float:
    # bitsandbytes quantizes the linear modules of the layers: matrices, of which the embeddings and the head are none.
    matrix = len(tensor.shape) == 2 and _in_layers(name)
    return _QUANTIZED_BYTES.get(quantization, element) if matrix else element


def _in_layers(name: str) -> bool:
    return ".layers." in f".{name}"


def _elements(tensor: StoredTensor) -> int:
    count = 1
    for length in tensor.shape:
        count *= length
    return count


def _decoder(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config.json that describes the text decoder."""
    text = config.get("text_config")
    return config | text if isinstance(text, dict) else config


def _positive(config: dict[str, Any], *names: str) -> int:
    return next((value for name in names if type(value := config.get(name)) is int and value > 0), 0)
