# SPDX-License-Identifier: Apache-2.0
"""Full fine-tuning: every weight that reads text is trained, except those of frozen layers."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from finetree_api.trainer.v1 import artifact_pb2
from finetree_api.types.v1 import run_spec_pb2
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetree_worker.errors import PlanError
from finetree_worker.methods import compatibility
from finetree_worker.models import portable_files
from finetree_worker.models.families import text_modules
from finetree_worker.plan import BaseModel, Method, Plan
from finetree_worker.portable import MODEL_WEIGHTS, Portable

_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Full(Method):
    """All weights that read text but those of the lowest `frozen_layers` layers, which freeze the embeddings too."""

    name: ClassVar[str] = "full"
    artifact: ClassVar[artifact_pb2.ArtifactKind.ValueType] = artifact_pb2.ARTIFACT_KIND_MODEL
    title: ClassVar[str] = "full fine-tuning"
    library: ClassVar[str] = "transformers"
    trains_base: ClassVar[bool] = True

    frozen_layers: int = 0

    @classmethod
    def from_spec(cls, spec: run_spec_pb2.RunSpec) -> Self:
        """Read RunSpec.full."""
        return cls(spec.full.frozen_layers)

    def apply(self, model: PreTrainedModel, plan: Plan) -> tuple[PreTrainedModel, PreTrainedModel]:
        """Make all weights that read text trainable but those of the frozen layers.

        A vision tower stays as it is. Raises PlanError NOTHING_TO_TRAIN.
        """
        del plan
        layers = int(model.config.get_text_config().num_hidden_layers)
        if self.frozen_layers >= layers:
            raise PlanError(
                "NOTHING_TO_TRAIN",
                f"{self.frozen_layers} frozen layers leave nothing to train: the model has {layers}.",
                field="full.frozen_layers",
                remedy=f"Freeze at most {layers - 1} layers.",
            )
        embeddings = {id(p) for p in model.get_input_embeddings().parameters()}
        text = {id(p) for module in text_modules(model) for p in module.parameters(recurse=False)}
        for name, parameter in model.named_parameters():
            layer = _LAYER.search(f".{name}")
            frozen = int(layer[1]) < self.frozen_layers if layer else id(parameter) in embeddings
            parameter.requires_grad_(id(parameter) in text and not (self.frozen_layers and frozen))
        return model, model

    def blank(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model: nothing is added to it."""
        return model

    def save(
        self, trained: Any, folder: Path, *, base: BaseModel, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype
    ) -> None:
        """Write config.json, tokenizer and safetensors shards of at most 5 GB in `dtype`, for transformers 4 and 5.

        What the base says of images is written as it is.
        """
        trained.config._name_or_path = base.hub_id  # noqa: SLF001 - else the folder on this machine would be published
        trained.config.use_cache = True
        portable_files.save_model(trained, folder, dtype=dtype, max_shard_size="5GB")
        portable_files.save_tokenizer(tokenizer, folder)
        portable_files.copy_image_settings(base.folder, folder)

    def portable(self, trained: Any, base: BaseModel) -> Portable | None:
        """Return the model's own names and its configuration; None where some weights are not in a checkpoint.

        Those of frozen layers and of a vision tower are not.
        """
        parameters = dict(trained.named_parameters())
        if not all(parameter.requires_grad for parameter in parameters.values()):
            return None
        config = json.loads(trained.config.to_json_string(use_diff=False))
        config |= {"_name_or_path": base.hub_id, "use_cache": True}
        config["dtype"] = str(next(iter(parameters.values())).dtype).removeprefix("torch.")
        config["architectures"] = [type(trained).__name__]
        return Portable(
            dict(zip(parameters, parameters, strict=True)),
            MODEL_WEIGHTS,
            portable_files.CONFIG,
            portable_files.in_both_spellings(config),
        )

    def load_lines(self, base: str, auto_class: str) -> tuple[str, ...]:
        """Return the lines that load a whole model, which needs no base."""
        del base
        return (
            f"from transformers import {auto_class}, AutoTokenizer",
            'tokenizer = AutoTokenizer.from_pretrained(".")',
            f'model = {auto_class}.from_pretrained(".")',
        )

    def compatibility(self, folder: Path, base: Path) -> artifact_pb2.Compatibility:
        """Return whether transformers loads the artifact, which needs no base."""
        del base
        return compatibility.with_transformers(folder)


METHOD = Full
