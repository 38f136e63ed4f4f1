# SPDX-License-Identifier: Apache-2.0
"""Attention within each document of a packed row.

transformers lets an attention function be registered by name and builds no mask for a name that it has no mask function
for. `attend_documents` gets the packed row (1, heads, tokens, head size) and the documents' lengths. Documents of
similar length are stacked and attend in one call: under a causal mask no token attends to the padding behind its
document, so no mask is needed, and a batch of short documents costs one call a layer instead of one per document.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from finetree_worker.data.stacking import DocumentGroup, stack, unstack
from finetree_worker.training.fused.causal_attention import causal_attention, suits
from finetree_worker.training.fused.shared_attention import attend_in_blocks, attend_with_scores, weights_of
from finetree_worker.training.token_mixers import mixing_by_document

NAME = "finetree_documents"
"""Name under which the function is registered with transformers."""
EAGER = "finetree_documents_eager"
"""Name for a model that was loaded with eager attention, whose scores are kept in memory."""
PLAIN_ATTENTION = "Choose a model of another family, such as Llama, Qwen, Mistral, Gemma or SmolLM."
"""What to do about a model whose rows cannot be packed."""
SHORT_TOKENS = 256
"""Up to this length plain matrix products beat the fused CPU kernel (measured, 9 heads of 64, forward and backward:
36 tokens 0.8 against 2.1 ms, 128 tokens 3.1 against 6.8 ms, 512 tokens 16.7 against 14.7 ms)."""


def attend_documents(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - transformers' signature; the groups stand in for the mask
    *,
    document_groups: Sequence[DocumentGroup],
    prefix_states: Tensor | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Compute causal attention of query (1, heads, tokens, d) to key and value (1, kv heads, tokens, d) by document.

    `prefix_states` (layers * 2, kv heads, prefix tokens, d) holds keys and values that stand before each document.
    `softcap` bounds the scores to (-softcap, softcap), as Gemma 2 does; a module's `sinks` (heads,) are scores of a key
    without a value, as in gpt-oss. Returns (1, tokens, heads, d) and no weights.
    """
    layer: Any = module.layer_idx if prefix_states is not None else None
    before = None if prefix_states is None else (prefix_states[2 * layer], prefix_states[2 * layer + 1])
    eager = module.config._attn_implementation == EAGER  # type: ignore[union-attr]  # noqa: SLF001 - no getter
    sinks: Tensor | None = getattr(module, "sinks", None)
    eager = eager or softcap is not None or sinks is not None
    rule = _Rule(scaling, sliding_window or None, softcap, sinks, eager=eager)
    filling = query.shape[2] - sum(documents.tokens for documents in document_groups)
    cut = [_cut(states, document_groups, filling) for states in (query, key, value)]
    parts = [_attend(cut, place, document_groups, before=before, rule=rule) for place in range(len(document_groups))]
    attended = torch.cat([*parts, query.new_zeros(filling, *parts[0].shape[1:])]) if filling or parts[1:] else parts[0]
    return attended.view(1, *attended.shape), None


def _cut(states: Tensor, groups: Sequence[DocumentGroup], filling: int) -> tuple[Tensor, ...]:
    """Cut (1, heads, tokens, d) into the groups' parts, (tokens of the group, heads, d) each.

    All at once: the backward pass joins the parts' gradients, where a slice for each group would make a gradient of
    the whole row for each and add them up.
    """
    return torch.split(states[0].transpose(0, 1), [*(documents.tokens for documents in groups), filling])


@dataclass(frozen=True, slots=True)
class _Rule:
    """A layer's attention: scale, window, bound and sinks of the scores, and whether they are kept in memory."""

    scaling: float | None
    window: int | None
    softcap: float | None
    sinks: Tensor | None
    eager: bool


def _attend(
    cut: Sequence[Sequence[Tensor]],
    place: int,
    groups: Sequence[DocumentGroup],
    *,
    before: tuple[Tensor, Tensor] | None,
    rule: _Rule,
) -> Tensor:
    """Return one group's part of the packed output: (tokens of the group, heads, d).

    `cut` has the parts of queries, keys and values, `place` is the group's.
    """
    documents = groups[place]
    queries, keys, values = (_stacked(parts[place], documents) for parts in cut)
    repeats = queries.shape[1] // keys.shape[1]
    if documents.behind is None:
        if before is not None:
            keys, values = (_behind(part, own) for part, own in zip(before, (keys, values), strict=True))
        if not _bounded(keys.shape[2], rule) and suits(queries, keys, values):
            return _packed(causal_attention(queries, keys, values, rule.scaling), documents)
        keys, values = (part.repeat_interleave(repeats, dim=1) for part in (keys, values))
        out = _alone((queries, keys, values), rule=rule)
    else:
        behind = [
            _shared(parts, groups, documents.behind, before=None if before is None else before[i])
            for i, parts in enumerate(cut[1:])
        ]
        first = behind[0].shape[1]
        # A prefix no longer than the documents is cheaper repeated for each than attended to in a call of its own.
        if first <= documents.length and not _bounded(first + documents.length, rule) and suits(queries, keys, values):
            keys, values = (_behind(part, own) for part, own in zip(behind, (keys, values), strict=True))
            return _packed(causal_attention(queries, keys, values, rule.scaling), documents)
        keys, values = (part.repeat_interleave(repeats, dim=1) for part in (keys, values))
        shared_keys, shared_values = (part.repeat_interleave(repeats, dim=0) for part in behind)
        out = _sharing((queries, keys, values), (shared_keys, shared_values), rule=rule)
    return _packed(out, documents)


def _bounded(keys: int, rule: _Rule) -> bool:
    """Return whether more than the causal mask decides the scores of a document: a window, a bound, or the model."""
    return rule.eager or (rule.window is not None and keys > rule.window)


def _packed(out: Tensor, documents: DocumentGroup) -> Tensor:
    """Rearrange (documents, heads, length, d) to (tokens of the group, heads, d)."""
    heads, size = out.shape[1], out.shape[3]
    stacked = out.transpose(1, 2).reshape(documents.documents * documents.length, heads * size)
    if documents.tokens != stacked.shape[0]:
        stacked = unstack(stacked, documents)
    return stacked.view(documents.tokens, heads, size)


def _alone(states: tuple[Tensor, Tensor, Tensor], *, rule: _Rule) -> Tensor:
    """Attend by document, to a prefix that stands in its keys and values too: (documents, heads, length, d)."""
    queries, keys, values = states
    length = queries.shape[2]
    mask = _mask(length, keys.shape[2] - length, rule=rule, device=queries.device)
    if rule.eager:
        return _eager(queries, keys, values, mask=mask, rule=rule)
    short = queries.device.type == "cpu" and length <= SHORT_TOKENS
    with sdpa_kernel(SDPBackend.MATH) if short else nullcontext():
        return scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=mask is None, scale=rule.scaling
        )


def _shared(
    parts: Sequence[Tensor], groups: Sequence[DocumentGroup], span: tuple[int, int], *, before: Tensor | None
) -> Tensor:
    """Return the states of a shared prefix, (heads, tokens, d), with those that stand before every document.

    `span` is its place in the packed row and its tokens: it is one of the documents of a group.
    """
    first, tokens = span
    holder = max(i for i, documents in enumerate(groups) if documents.first <= first)
    own = parts[holder].narrow(0, first - groups[holder].first, tokens).transpose(0, 1)
    return own if before is None else torch.cat([before.to(own.dtype), own], dim=1)


def _sharing(states: tuple[Tensor, Tensor, Tensor], prefix: tuple[Tensor, Tensor], *, rule: _Rule) -> Tensor:
    """Attend by document and to one prefix of all, keys and values (heads, tokens, d)."""
    queries, _, values = states
    length, tokens = queries.shape[2], prefix[0].shape[1]
    scale = queries.shape[-1] ** -0.5 if rule.scaling is None else rule.scaling
    seen = _mask(length, tokens, rule=rule, device=queries.device)
    windowed = rule.window is not None and tokens + length > rule.window
    unequal = queries.shape[-1] != values.shape[-1]  # the fused kernel takes heads of one size
    if seen is not None and (rule.eager or windowed or unequal or tokens + length <= SHORT_TOKENS):
        return attend_with_scores(states, prefix, seen=seen, scale=scale, softcap=rule.softcap, sinks=rule.sinks)
    return attend_in_blocks(states, prefix, scale=scale)


def _behind(prefix: Tensor, own: Tensor) -> Tensor:
    """Put a prefix (heads, prefix tokens, d) before each document's own states (documents, heads, length, d)."""
    repeated = prefix.to(own.dtype).expand(own.shape[0], *prefix.shape)
    return torch.cat([repeated, own], dim=2)


def _eager(queries: Tensor, keys: Tensor, values: Tensor, *, mask: Tensor | None, rule: _Rule) -> Tensor:
    """Compute attention with its scores in memory, softmax in float32 as in fused kernels; scores may be bounded."""
    scale = queries.shape[-1] ** -0.5 if rule.scaling is None else rule.scaling
    scores = (queries @ keys.transpose(-1, -2)) * scale
    if rule.softcap is not None:
        scores = torch.tanh(scores / rule.softcap) * rule.softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return weights_of(scores, rule.sinks, axis=1).to(values.dtype) @ values


def _stacked(own: Tensor, documents: DocumentGroup) -> Tensor:
    """Rearrange a group's part, (tokens, heads, d), to (documents, heads, length, d)."""
    _, heads, size = own.shape
    if documents.tokens == documents.documents * documents.length:
        return own.reshape(documents.documents, documents.length, heads, size).transpose(1, 2)
    flat = stack(own.reshape(documents.tokens, heads * size), documents)
    return flat.view(documents.documents, documents.length, heads, size).transpose(1, 2)


def _mask(length: int, prefix: int, *, rule: _Rule, device: torch.device) -> Tensor | None:
    """Return True where a token may attend: (length, prefix + length); None where the causal mask is enough.

    A token sees itself, what is before it in its document, and the prefix; with a window, no more than the window - 1
    positions before its own, of which the prefix has the first.
    """
    window = rule.window if rule.window is not None and prefix + length > rule.window else None
    if not (prefix or window or rule.eager):
        return None
    keys = torch.arange(prefix + length, device=device)
    distance = keys[prefix:, None] - keys[None, :]
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)


@contextmanager
def by_document(model: PreTrainedModel) -> Iterator[None]:
    """Make the model attend and mix tokens by document inside the block; generation outside it uses its own way."""
    before = model.config._attn_implementation  # noqa: SLF001 - transformers has a setter but no getter
    name = EAGER if before == "eager" else NAME
    AttentionInterface.register(name, attend_documents)
    model.set_attn_implementation(name)
    try:
        with mixing_by_document(model):
            yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def as_loaded(model: PreTrainedModel) -> Iterator[None]:
    """Make the model attend as it was loaded to inside the block, also within one of `by_document`."""
    before = model.config._attn_implementation  # noqa: SLF001 - transformers has a setter but no getter
    model.set_attn_implementation({NAME: "sdpa", EAGER: "eager"}.get(before, before))
    try:
        yield
    finally:
        model.set_attn_implementation(before)
