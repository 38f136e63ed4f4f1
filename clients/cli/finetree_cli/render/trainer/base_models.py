# SPDX-License-Identifier: Apache-2.0
"""Base models on the trainer's machine as text."""

from collections.abc import Iterable

from finetree_api.trainer.v1 import base_model_pb2

from finetree_cli.output import Output
from finetree_cli.render import units

COMMIT_CHARACTERS = 12
"""Characters of a commit in a table."""


def show_list(out: Output, found: Iterable[base_model_pb2.BaseModel]) -> None:
    """Print models as a table."""
    rows = [
        (
            _title(model),
            model.revision[:COMMIT_CHARACTERS],
            units.word(base_model_pb2.BaseModelOrigin, model.origin),
            units.word(base_model_pb2.BaseModelState, model.state),
            model.model_type,
            units.size(model.size_bytes),
        )
        for model in found
    ]
    out.table(["Model", "Commit", "From", "State", "Architecture", ">Size"], rows)


def show_model(out: Output, model: base_model_pb2.BaseModel) -> None:
    """Print one model in full."""
    state = units.word(base_model_pb2.BaseModelState, model.state)
    out.text(f"{_title(model)}  {model.name}")
    out.text(f"  state         {state}, {units.size(model.size_bytes)}")
    out.text(f"  from          {units.word(base_model_pb2.BaseModelOrigin, model.origin)}")
    if model.revision:
        out.text(f"  commit        {model.revision}  {', '.join(model.refs)}".rstrip())
    if model.model_type:
        longest = f", sequences of up to {model.max_positions} tokens" if model.max_positions else ""
        out.text(f"  architecture  {model.model_type}{longest}")


def _title(model: base_model_pb2.BaseModel) -> str:
    return model.source.name or model.source.hub.id or model.source.path
