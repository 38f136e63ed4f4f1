# SPDX-License-Identifier: Apache-2.0
"""The faster ways of a step, put in place around training and taken away after it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from finetree_worker.methods import lora_groups
from finetree_worker.training.fused import rms_norm
from finetree_worker.training.fused.levers import Lever, is_on


@contextmanager
def faster(model: PreTrainedModel) -> Iterator[None]:
    """Compute the model's steps in the faster ways inside the block.

    A model under fully_shard keeps its own layers: its weights come and go around each module's call, which a group of
    layers would pass by.
    """
    with ExitStack() as ways:
        if not any(isinstance(module, FSDPModule) for module in model.modules()):
            if is_on(Lever.LORA):
                ways.enter_context(lora_groups.joined(model))
            ways.enter_context(rms_norm.by_hand(model))
        yield
