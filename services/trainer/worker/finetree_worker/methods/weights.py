# SPDX-License-Identifier: Apache-2.0
"""Trained weights on a loaded base: of an artifact, of a checkpoint, or of an adapter that others trained."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import run_spec_pb2
from finetree_api.worker.v1 import worker_pb2
from finetree_data.weights import adapter as adapter_files
from finetree_data.weights import checkpoint as checkpoint_files
from finetree_data.weights.errors import WeightsError
from finetree_data.weights.fingerprint import fingerprint
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import PreTrainedModel

from finetree_worker.atomic_files import hash_of, manifest_hash, recorded_hashes
from finetree_worker.errors import ModelError
from finetree_worker.methods import adapter, compatibility, lora, method_of, peft_format
from finetree_worker.methods.lazy_bitsandbytes import without_bitsandbytes
from finetree_worker.models.load import load_model
from finetree_worker.plan import BaseModel


@dataclass(frozen=True, slots=True)
class Weights:
    """Trained weights of a task: as TaskWeights, which says what each field means."""

    name: str
    folder: Path
    kind: artifact_pb2.ArtifactKind.ValueType
    checkpoint: bool = False
    spec: run_spec_pb2.RunSpec | None = None
    base_fingerprint: str = ""
    sha256: str = ""
    source: str = ""

    @classmethod
    def from_message(cls, message: worker_pb2.TaskWeights) -> Self:
        """Read the weights of a task."""
        return cls(
            name=message.name,
            folder=Path(message.folder),
            kind=message.kind,
            checkpoint=message.checkpoint,
            spec=message.spec if message.HasField("spec") else None,
            base_fingerprint=message.base.fingerprint,
            sha256=message.sha256,
            source=message.source,
        )

    @property
    def whole_model(self) -> bool:
        """Whether the folder is a transformers model folder, which is loaded in place of the base."""
        return self.kind == artifact_pb2.ARTIFACT_KIND_MODEL and not self.checkpoint

    def model_folder(self, base: Path) -> Path:
        """Return the folder that the model is loaded from: their own for a whole model, else the base's."""
        return self.folder if self.whole_model else base


def load(model: PreTrainedModel, weights: Weights, *, trainable: bool = False) -> PreTrainedModel | PeftModel:
    """Put trained weights on their base, loaded from its folder, and return the model to run.

    The model is changed in place, except by a whole model: that is loaded anew in the type, on the device and with the
    quantization of `model`, unless `model` has been loaded from its folder. LoRA and prefixes give a PeftModel, whose
    prefix is in its forward pass and not in that of its base model. Nothing requires gradients; with `trainable`, what
    the method trains does. Raises ModelError: WRONG_BASE, WEIGHTS_UNREADABLE, WEIGHTS_MISMATCH, WEIGHTS_CHANGED,
    MODEL_PICKLED, and for bottleneck layers ADAPTER_UNREADABLE.
    """
    verify(weights)
    if weights.whole_model:
        loaded: PreTrainedModel | PeftModel = _whole(model, weights)
    else:
        check_base(model, weights)
        with readable(weights):
            loaded = _from_checkpoint(model, weights) if weights.checkpoint else _adapted(model, weights)
    if not trainable:
        loaded.requires_grad_(requires_grad=False)
    return loaded


def verify(weights: Weights) -> None:
    """Compare all files of weights with their hashes.

    Raises ModelError: WEIGHTS_CHANGED where they are whole and others than the task's, WEIGHTS_UNREADABLE, and
    MODEL_PICKLED.
    """
    with readable(weights):
        found = _content_hash(weights)
    if weights.sha256 and found != weights.sha256:
        raise ModelError(
            "WEIGHTS_CHANGED",
            f"{_shown(weights)} has other content than when the job was created.",
            field=weights.name,
            remedy="Create the job again with the weights that are there now.",
        )


def require_base(weights: Weights, base: BaseModel) -> None:
    """Raise ModelError WRONG_BASE for weights of a base with another fingerprint, where theirs is known."""
    if weights.base_fingerprint not in ("", base.fingerprint):
        raise _wrong_base(weights)


def initialize(adapted: PreTrainedModel | PeftModel, weights: Weights) -> None:
    """Copy trained weights into a model that a method was applied to, as the start of a run.

    Of a whole model nothing is copied: the model was loaded from its folder. Raises ModelError: WEIGHTS_UNREADABLE;
    WEIGHTS_MISMATCH for layers of other names or shapes.
    """
    if not weights.whole_model:
        with readable(weights):
            _copy_checkpoint(adapted, weights) if weights.checkpoint else _copy_adapter(adapted, weights)


def _content_hash(weights: Weights) -> str:
    folder = weights.folder
    if not weights.checkpoint and weights.kind == artifact_pb2.ARTIFACT_KIND_ADAPTER:
        return adapter_files.content_hash(adapter_files.read_adapter(folder))
    if weights.checkpoint:
        checkpoint_files.read_checkpoint(folder)
    stated = recorded_hashes(folder)
    if any(hash_of(folder / name) != sha256 for name, sha256 in stated.items()):
        raise WeightsError("has files that differ from its manifest", remedy="Take another checkpoint or artifact.")
    if weights.checkpoint:
        return manifest_hash(folder)
    return hashlib.sha256((folder / adapter_files.MANIFEST).read_bytes()).hexdigest()


def check_base(model: PreTrainedModel, weights: Weights) -> None:
    """Compare the fingerprint of the folder that the model was loaded from, where both are known."""
    folder = Path(str(model.config._name_or_path))  # noqa: SLF001 - where transformers keeps what it loaded
    if (folder / "config.json").is_file():
        require_base(weights, BaseModel(folder, fingerprint=fingerprint(folder)))


def _whole(model: PreTrainedModel, weights: Weights) -> PreTrainedModel:
    config = model.config
    if Path(str(config._name_or_path)) == weights.folder:  # noqa: SLF001 - where transformers keeps what it loaded
        return model
    attention = config._attn_implementation or "sdpa"  # noqa: SLF001 - the only place that says what was chosen
    quantization = getattr(config, "quantization_config", None)
    return load_model(
        weights.folder, model.dtype, device=model.device, quantization=quantization, attention=str(attention)
    )


def _adapted(model: PreTrainedModel, weights: Weights) -> PreTrainedModel | PeftModel:
    found = adapter_files.read_adapter(weights.folder)
    if found.method == "adapter":
        return adapter.load(model, weights.folder)
    # The rest of the configuration is peft's to read: what it does not know, it refuses or leaves out with a warning.
    settings = PeftConfig.from_pretrained(str(weights.folder))
    settings.inference_mode, settings.base_model_name_or_path = False, None
    if isinstance(settings, LoraConfig):
        settings.init_lora_weights = True  # computed from the base or from data else, and then replaced
        settings.fan_in_fan_out = lora.transposed(model)
        lora.use_own_layers(settings)
    with peft_format.quiet_peft(), without_bitsandbytes():
        adapted: PeftModel = get_peft_model(model, settings, autocast_adapter_dtype=True)
    _copy_adapter(adapted, weights)
    return adapted


def _copy_adapter(adapted: PreTrainedModel | PeftModel, weights: Weights) -> None:
    found = adapter_files.read_adapter(weights.folder)
    if isinstance(adapted, PeftModel):
        state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
        problem = compatibility.difference(expected, {name: each.shape for name, each in found.tensors.items()})
        if not problem:
            set_peft_model_state_dict(adapted, load_file(found.weights))
    else:
        problem = adapter.restore(adapted, weights.folder)
    if problem:
        raise _mismatch(weights, problem)


def _from_checkpoint(model: PreTrainedModel, weights: Weights) -> PreTrainedModel | PeftModel:
    if weights.spec is None:
        raise WeightsError("is a checkpoint of a run that is not described", remedy="Name the job's artifact.")
    adapted: PreTrainedModel | PeftModel = method_of(weights.spec).blank(model)
    _copy_checkpoint(adapted, weights)
    return adapted


def _copy_checkpoint(adapted: PreTrainedModel | PeftModel, weights: Weights) -> None:
    """Copy the trained weights of a checkpoint, one by one, whatever floating-point type they have in the model."""
    parameters = dict(adapted.named_parameters())
    with safe_open(weights.folder / checkpoint_files.WEIGHTS, framework="pt") as stored, torch.no_grad():
        for name in stored.keys():  # noqa: SIM118 - not a dict
            tensor, own = stored.get_tensor(name), parameters.get(name)
            if own is not None and not own.is_floating_point():
                # A copy would round each weight to a whole number, nearly all of them to zero.
                raise _quantized(weights, name)
            if own is None or own.shape != tensor.shape:
                problem = f"{name} does not belong to any layer, or has the shape {tuple(tensor.shape)}"
                raise _mismatch(weights, problem)
            own.copy_(tensor)


@contextmanager
def readable(weights: Weights) -> Iterator[None]:
    """Turn errors of reading weights into ModelError."""
    try:
        yield
    except WeightsError as error:
        text = f"{_shown(weights)} {error.problem}."
        raise ModelError(error.reason, text, field=weights.name, remedy=error.remedy) from error
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        text = f"{_shown(weights)} cannot be read ({type(error).__name__})."
        raise ModelError("WEIGHTS_UNREADABLE", text, field=weights.name, remedy="Name other weights.") from error


def _wrong_base(weights: Weights) -> ModelError:
    text = f"{_shown(weights)} was trained on another base model: the fingerprints differ."
    return ModelError("WRONG_BASE", text, field=weights.name, remedy="Name the base that it was trained on.")


def _mismatch(weights: Weights, problem: str) -> ModelError:
    text = f"{_shown(weights)} does not fit the model: {problem}."
    remedy = "Name the base and the method's settings that it was trained with."
    return ModelError("WEIGHTS_MISMATCH", text, field=weights.name, remedy=remedy)


def _quantized(weights: Weights, name: str) -> ModelError:
    text = f"{_shown(weights)} holds {name}, which is quantized in the model: a checkpoint cannot be copied into that."
    remedy = "Load the base without quantization, or name the job's artifact in place of its checkpoint."
    return ModelError("WEIGHTS_MISMATCH", text, field=weights.name, remedy=remedy)


def _shown(weights: Weights) -> str:
    return weights.source or weights.folder.name
