# SPDX-License-Identifier: Apache-2.0
"""Preflight: documents of one row must be computed as if each were alone, whatever layers the model has.

Attention keeps documents apart (`training.attention`). Layers that pass a state or a convolution from token to token,
and biases or positions counted over the whole row, do not know where a document begins: such a model would learn each
document from the one before it, without a word. No list of names is complete, so the model itself is asked.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from finetree_worker.data.packing import collate
from finetree_worker.device_memory import is_out_of_memory
from finetree_worker.errors import ModelError
from finetree_worker.tokenize.example import Example
from finetree_worker.training.attention import PLAIN_ATTENTION, by_document
from finetree_worker.training.loss import sharing, target_logits

FIRST_TOKEN = {torch.float32: 1e-2, torch.bfloat16: 0.1, torch.float16: 0.1}
"""Largest relative difference of the logits of a document's first token, alone and behind another document.

Alone it attends to itself only, so that there is next to nothing to round otherwise: 0.0 in SmolLM2-135M in bfloat16,
and 0.3 to 1.5 where something passes from document to document.
"""
DOCUMENT = {torch.float32: 1e-2, torch.bfloat16: 0.5, torch.float16: 0.5}
"""Largest relative difference of the logits of a whole document: 0.1 by rounding in SmolLM2-135M in bfloat16."""
_HEAD, _REST, _BETWEEN = 12, 6, 8
"""Tokens that two documents begin with, tokens that follow in each, tokens of the document that stands between."""


def check(model: PreTrainedModel) -> None:
    """Check that packed documents have the logits that they have alone, those that share their beginning included.

    The model is as it was loaded; some 80 tokens are computed. Raises ModelError: UNSUPPORTED_ATTENTION,
    MODEL_NOT_FINITE.
    """
    documents = _documents(model.config.get_text_config().vocab_size)
    try:
        with torch.no_grad():
            alone, packed = _alone(model, documents), _packed(model, documents)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise _refused(f"packed rows end in {type(error).__name__}") from error
    if not all(bool(logits.isfinite().all()) for logits in alone):
        raise ModelError(
            "MODEL_NOT_FINITE",
            f"The logits of the untrained model are not finite in {_name(model.dtype)}.",
            field="model",
            remedy="Train in PRECISION_BF16 or PRECISION_FP32; if they are not finite there, fetch the model again.",
        )
    found = [_difference(*both) for both in zip(packed, alone, strict=True)]
    first = _difference(packed[1][:1], alone[1][:1])
    # Not a number is no small difference.
    if not (first <= FIRST_TOKEN[model.dtype] and max(found) <= DOCUMENT[model.dtype]):
        at_most = f"at most {FIRST_TOKEN[model.dtype]:.1%} and {DOCUMENT[model.dtype]:.1%} are rounding"
        raise _refused(
            f"the logits of a packed row differ from those of the row alone by {first:.1%} at its first token, and by "
            f"{max(found):.1%} in all ({at_most})"
        )


def _documents(vocabulary: int) -> list[Example]:
    """Return three documents, of which the first and the last begin alike and the second is learned from its start.

    Packed with sharing, what the first and the last begin with comes first, then the second; without, the first does.
    """

    def some(count: int, *, kind: int) -> Tensor:
        # A prime step visits tokens all over the vocabulary.
        return ((torch.arange(count) + 1) * 7919 * kind) % vocabulary

    head = some(_HEAD, kind=1)
    long = [torch.cat([head, some(_REST, kind=kind)]) for kind in (2, 3)]
    learned = torch.arange(_HEAD + _REST) > _HEAD
    return [
        Example(0, long[0], learned),
        Example(1, some(_BETWEEN, kind=5), torch.ones(_BETWEEN, dtype=torch.bool)),
        Example(2, long[1], learned),
    ]


def _packed(model: PreTrainedModel, documents: Sequence[Example]) -> list[Tensor]:
    """Return the logits of each document's predictors, computed as training does: (predictors, vocabulary)."""
    shared = sharing(model)
    batch = collate(documents, None if shared is None else replace(shared, overhead=0)).to(model.device)
    with by_document(model):
        logits = target_logits(model, batch)
    return [logits[batch.owners == owner] for owner in range(len(documents))]


def _alone(model: PreTrainedModel, documents: Sequence[Example]) -> list[Tensor]:
    """Return the same logits, computed by transformers for each document alone."""
    untyped: Any = model
    found = []
    for document in documents:
        ids = document.tokens[None].to(model.device)
        logits: Tensor = untyped(input_ids=ids, use_cache=False).logits[0].float()
        is_predictor = document.is_target.roll(-1)
        is_predictor[-1] = False
        found.append(logits[is_predictor.to(logits.device)])
    return found


def _difference(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference by that of the expected logits, which are the same up to a constant."""
    size = (expected - expected.mean(dim=-1, keepdim=True)).norm()
    return float((found - expected).norm() / size)


def _refused(text: str) -> ModelError:
    return ModelError(
        "UNSUPPORTED_ATTENTION",
        f"This model does not compute the rows of a pack apart from each other: {text}.",
        field="model",
        remedy=PLAIN_ATTENTION,
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
