# SPDX-License-Identifier: Apache-2.0
"""A trained prefix for serving: the keys and values that a sequence of its rows begins with."""

from collections.abc import Mapping

from finetree_api.types.v1 import method_pb2
from torch import Tensor
from transformers import PreTrainedModel

from finetree_worker.generate.targets.target import Target, unreadable, wrong_base

_NAMES = ("prompt_embeddings", "prompt_encoder.default.embedding.weight")
"""Names of the one tensor: in peft's file, and of the parameter in a checkpoint."""


def read(tensors: Mapping[str, Tensor], model: PreTrainedModel) -> Target:
    """Return the prefix of these tensors for a base.

    Raises ModelError: WEIGHTS_UNREADABLE for other tensors (such as those of a projection), WRONG_BASE for keys and
    values of another size.
    """
    if len(tensors) != 1 or (name := next(iter(tensors))) not in _NAMES:
        raise unreadable("it is no prefix of keys and values alone")
    weight, config = tensors[name], model.config.get_text_config()
    layers, heads = (
        int(config.num_hidden_layers),
        int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads),
    )
    size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    if weight.ndim != 2 or not len(weight):
        raise unreadable("its tensor is no table of virtual tokens")
    if weight.shape[1] != layers * 2 * heads * size:
        raise wrong_base(
            f"The prefix has {weight.shape[1]} numbers for each virtual token, this base's keys and values "
            f"{layers * 2 * heads * size}."
        )
    # peft's layout: (tokens, layers * 2 * heads * head size), keys before values.
    states = weight.to(model.device, model.dtype).view(-1, layers * 2, heads, size).permute(1, 2, 0, 3).contiguous()
    pairs = tuple((states[2 * layer], states[2 * layer + 1]) for layer in range(layers))
    return Target(method_pb2.METHOD_PREFIX, prefix=pairs)
