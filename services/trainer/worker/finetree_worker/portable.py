# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint needs so that other programs load its weights: the names that they know, and a configuration.

A checkpoint has the weights under their names in the model that was trained. Beside them lies `portable.json`, from
which the service makes the files of peft or transformers on request: only a header differs, and no number is copied.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetree_data.weights.checkpoint import PORTABLE
from torch import Tensor, nn

ADAPTER_WEIGHTS = "adapter_model.safetensors"
MODEL_WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Portable:
    """Names of weights by those in the model, the file that has them under these names, and its configuration."""

    names: dict[str, str]
    weights_file: str
    config_file: str
    config: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write it into a checkpoint's folder."""
        (folder / PORTABLE).write_text(json.dumps(asdict(self), sort_keys=True) + "\n", encoding="utf-8")


def names_by_storage(trained: Iterable[tuple[str, nn.Parameter]], exported: Mapping[str, Tensor]) -> dict[str, str]:
    """Pair parameters that are trained with the tensors of an exported state that share their memory.

    One parameter and one tensor are a pair also where the state has a copy, as of a prefix on a GPU.
    """
    own = {parameter.data_ptr(): name for name, parameter in trained if parameter.requires_grad}
    if len(own) == len(exported) == 1:
        return dict(zip(own.values(), exported, strict=True))
    return {own[tensor.data_ptr()]: name for name, tensor in exported.items() if tensor.data_ptr() in own}
