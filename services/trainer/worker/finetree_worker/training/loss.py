# SPDX-License-Identifier: Apache-2.0
"""Cross entropy at the target positions alone, with a bounded number of logits in memory."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from finetree_worker.data.packing import MicroBatch
from finetree_worker.data.prefixes import Sharing
from finetree_worker.data.stacking import DocumentGroup, group
from finetree_worker.methods.prefix import states as prefix_states
from finetree_worker.training.fused.cross_entropy import LogitRule, cross_entropy_sum, suits
from finetree_worker.training.token_mixers import mixes_tokens

CHUNK_TARGETS = 1024
"""Number of targets whose logits exist at once: 1024 x 49,152 float32 logits are 201 MB, their gradient as much."""


def _rule(model: PreTrainedModel) -> LogitRule:
    config = model.config.get_text_config()
    # Three families change their logits after the head: Granite divides, Cohere multiplies, Gemma 2 and 3 cap them.
    factor = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    return LogitRule(factor, getattr(config, "final_logit_softcapping", None) or None)


def _logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    return _rule(model).logits(head(hidden))


def _chunk_loss(model: PreTrainedModel, hidden: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(_logits(model, hidden), labels, reduction="sum")


def sharing(model: PreTrainedModel) -> Sharing | None:
    """Return which documents of a pack may share what they begin with; None where it is not done.

    It is not on a GPU, nor where a model attends in code of its own (Falcon, GPT-Neo): packed documents are kept apart
    there by their positions, and what follows a shared prefix would not see it; nor where a state goes from token to
    token, which each document begins anew. A model with an attention window shares within documents that the window
    holds whole, a prefix included.
    """
    attends = model._supports_attention_backend  # noqa: SLF001 - transformers has no getter
    if model.device.type != "cpu" or not attends or mixes_tokens(model):
        return None
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if not window:
        return Sharing()
    prefix = prefix_states(model)
    return Sharing(longest=window - (0 if prefix is None else prefix.shape[2]))


def _groups(batch: MicroBatch) -> tuple[DocumentGroup, ...]:
    groups: list[DocumentGroup] = []
    first = 0
    for block in batch.blocks:
        groups += group(block.lengths, batch.token_ids.device, first=first, behind=block.behind)
        first += sum(block.lengths)
    return tuple(groups)


def hidden_states(model: PreTrainedModel, batch: MicroBatch) -> Tensor:
    """Compute the decoder's last hidden state for a packed micro-batch: (tokens, hidden size).

    A prefix stands before each document. The model must be inside `attention.by_document`.
    """
    decoder: Any = model.get_decoder()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    prefix = prefix_states(model)
    output = decoder(
        input_ids=batch.token_ids,
        # A prefix has the first positions.
        position_ids=batch.positions if prefix is None else batch.positions + prefix.shape[2],
        use_cache=False,
        document_groups=_groups(batch),
        prefix_states=prefix,
    )
    states: Tensor = output.last_hidden_state[0]
    return states


def target_logits(model: PreTrainedModel, batch: MicroBatch) -> Tensor:
    """Return the logits of all targets at once, float32 (targets, vocabulary), in the order of the batch's labels."""
    return _logits(model, hidden_states(model, batch)[batch.predictors])


def target_loss(model: PreTrainedModel, batch: MicroBatch) -> Tensor:
    """Return the sum of the cross entropies (nats) of the micro-batch's targets, a float32 scalar."""
    hidden = hidden_states(model, batch)[batch.predictors]
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    if suits(head, hidden):
        return cross_entropy_sum(head, hidden, batch.labels, _rule(model))
    if len(hidden) <= CHUNK_TARGETS:
        return _chunk_loss(model, hidden, batch.labels)
    total = hidden.new_zeros((), dtype=torch.float32)
    chunks = zip(torch.split(hidden, CHUNK_TARGETS), torch.split(batch.labels, CHUNK_TARGETS), strict=True)
    for part, labels in chunks:
        # Each chunk's logits are computed again in the backward pass rather than kept.
        total = total + checkpoint(_chunk_loss, model, part, labels, use_reentrant=False)
    return total


def target_scores(model: PreTrainedModel, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """Return each target's cross entropy (nats), float32, and whether it is predicted, bool; no gradients.

    Both (targets,), in the order of the batch's labels.
    """
    hidden = hidden_states(model, batch)[batch.predictors]
    nats, correct = [], []
    chunks = zip(torch.split(hidden, CHUNK_TARGETS), torch.split(batch.labels, CHUNK_TARGETS), strict=True)
    for part, labels in chunks:
        logits = _logits(model, part)
        nats.append(cross_entropy(logits, labels, reduction="none"))
        correct.append(logits.argmax(dim=-1) == labels)
    return torch.cat(nats), torch.cat(correct)
