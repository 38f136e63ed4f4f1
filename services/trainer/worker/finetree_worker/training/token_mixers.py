# SPDX-License-Identifier: Apache-2.0
"""Convolutions, linear attention and state-space layers within each document of a packed row.

Hybrid models (Qwen3.5, Qwen3-Next, LFM2, Granite 4, Nemotron-H) mix most tokens by a short convolution and a state that
goes from token to token, neither of which knows where a document of a packed row begins. transformers computes them in
functions of a module, to which it passes on what the decoder was called with: here they get the documents, and compute
each from an empty state. Projections, and adapters on them, still see the packed row.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from finetree_worker.data.stacking import DocumentGroup, stack, unstack

_TOKEN_AXES: Mapping[str, Mapping[str, int]] = {
    "causal_conv1d_fn": {"hidden_states": 2},
    "torch_chunk_gated_delta_rule": {"query": 1, "key": 1, "value": 1, "g": 1, "beta": 1},
    "mamba2_chunk_scan": {"hidden_states": 1, "dt": 1, "B": 1, "C": 1},
}
"""Functions of transformers' modules that mix tokens, and the axis of the tokens in each argument that has them.

The result, or the first of several, has its tokens on the axis of the first argument.
"""
_FUSED = "mamba2_split_conv1d_scan_combined"
"""Function that does all of a layer at once where a kernel is installed, and returns None where none is."""


def mixes_tokens(model: PreTrainedModel) -> bool:
    """Return whether layers of the model mix tokens by something else than attention."""
    return bool(_modules(model))


@contextmanager
def mixing_by_document(model: PreTrainedModel) -> Iterator[None]:
    """Make the model's layers mix tokens by document inside the block, where its decoder is called with documents."""
    with ExitStack() as changed:
        for module in _modules(model):
            for name, axes in _TOKEN_AXES.items():
                if hasattr(module, name):
                    _replace(changed, module, name, _by_document(getattr(module, name), axes))
            if hasattr(module, _FUSED):
                _replace(changed, module, _FUSED, _never_at_once(getattr(module, _FUSED)))
        yield


def _replace(until: ExitStack, module: ModuleType, name: str, function: Callable[..., Any]) -> None:
    until.callback(setattr, module, name, getattr(module, name))
    setattr(module, name, function)


def _modules(model: PreTrainedModel) -> list[ModuleType]:
    """Return the modules of transformers that define the model's layers, those with functions that mix tokens."""
    names = sorted({type(part).__module__ for part in model.modules()})
    found = [sys.modules[name] for name in names if name.startswith("transformers.models.")]
    return [module for module in found if any(hasattr(module, name) for name in _TOKEN_AXES)]


def _by_document(function: Callable[..., Any], axes: Mapping[str, int]) -> Callable[..., Any]:
    names = list(inspect.signature(function).parameters)
    leading, axis_of_result = next(iter(axes.items()))

    @wraps(function)
    def called(*args: Any, document_groups: Sequence[DocumentGroup] | None = None, **settings: Any) -> Any:
        if document_groups is None:
            return function(*args, **settings)
        given = dict(zip(names, args, strict=False)) | settings
        filling = given[leading].shape[axis_of_result] - sum(documents.tokens for documents in document_groups)
        sizes = [*(documents.tokens for documents in document_groups), filling]
        cut = {name: torch.split(_tokens_first(given.pop(name), axis), sizes) for name, axis in axes.items()}
        mixed, result = [], None
        for place, documents in enumerate(document_groups):
            stacked = {name: _stacked(cut[name][place], documents, axis) for name, axis in axes.items()}
            result = function(**stacked, **given)
            own = result[0] if isinstance(result, tuple) else result
            mixed.append(_packed(own, documents, axis_of_result))
        whole = torch.cat([*mixed, mixed[0].new_zeros(filling, *mixed[0].shape[1:])])
        joined = whole.movedim(0, axis_of_result - 1)[None]
        # A final state is for a cache, which training does not have.
        return (joined, None) if isinstance(result, tuple) else joined

    return called


def _never_at_once(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def called(*args: Any, document_groups: Sequence[DocumentGroup] | None = None, **settings: Any) -> Any:
        return function(*args, **settings) if document_groups is None else None

    return called


def _tokens_first(states: Tensor, axis: int) -> Tensor:
    """Rearrange (1, ..., tokens, ...) to (tokens, ...)."""
    return states[0].movedim(axis - 1, 0)


def _stacked(part: Tensor, documents: DocumentGroup, axis: int) -> Tensor:
    """Rearrange a group's part (tokens of the group, ...) to (documents, ..., length, ...), tokens on `axis`."""
    features = part.shape[1:]
    flat = stack(part.reshape(documents.tokens, -1), documents)
    return flat.view(documents.documents, documents.length, *features).movedim(1, axis)


def _packed(mixed: Tensor, documents: DocumentGroup, axis: int) -> Tensor:
    """Rearrange (documents, ..., length, ...) to the group's part: (tokens of the group, ...)."""
    rows = mixed.movedim(axis, 1)
    flat = rows.reshape(documents.documents * documents.length, -1)
    return unstack(flat, documents).view(documents.tokens, *rows.shape[2:])
