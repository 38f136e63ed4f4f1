# SPDX-License-Identifier: Apache-2.0
"""The gradient of a trained embedding that is the output head too, added row by row.

The head's gradient has a row for each word of the vocabulary, the embedding's has values for the words of the
micro-batch alone. Autograd fills a tensor of the head's size with zeros, writes those rows, and adds the whole of it.
Told that the embedding's gradient is sparse, it copies the head's gradient and adds those rows: as much memory, fewer
passes over it. What a parameter gets is dense as before, since the head's part is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from finetree_worker.training.fused.levers import Lever, is_on


@contextmanager
def rows_alone(model: PreTrainedModel) -> Iterator[None]:
    """Let the embedding's gradient be of the rows that were read, inside the block; on a CPU.

    An untied embedding is left alone, since its gradient would stay sparse; on a GPU sparse rows are added in any
    order.
    """
    embedding = _tied(model) if is_on(Lever.EMBEDDING) else None
    if embedding is None:
        yield
        return
    before, embedding.sparse = embedding.sparse, True
    try:
        yield
    finally:
        embedding.sparse = before


def _tied(model: PreTrainedModel) -> nn.Embedding | None:
    """Return the embedding whose trained weight is the head's as well; None where there is none."""
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    plain = type(embedding) is nn.Embedding and type(head) is nn.Linear
    if not plain or head.weight is not embedding.weight or not embedding.weight.requires_grad:
        return None
    return embedding if embedding.weight.device.type == "cpu" else None
