# SPDX-License-Identifier: Apache-2.0
"""Notebooks: protobuf's classes are not ours to change, so IPython is told how to show their messages."""

from __future__ import annotations

import sys
from typing import Any

SHOWN = {
    ("finetree_api.trainer.v1.job_pb2", "Job"),
    ("finetree_api.trainer.v1.event_pb2", "JobEvent"),
    ("finetree_api.trainer.v1.capacity_pb2", "GetCapacityResponse"),
    ("finetree_api.estimator.v1.estimate_pb2", "Estimate"),
    ("finetree_api.recommender.v1.recommendation_pb2", "RecommendResponse"),
}
"""Module and name of the messages that have a card; none of the modules is imported for it."""


def running_shell() -> Any:
    """The IPython shell that this program runs in; None outside of one."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this program, so that what is displayed can change later."""
    return getattr(running_shell(), "kernel", None) is not None


def register(shell: Any) -> None:
    """Tell an IPython shell how to show the messages; again does no harm."""
    if shell is None:
        return
    formatters = shell.display_formatter.formatters
    for module, name in sorted(SHOWN):
        formatters["text/html"].for_type_by_name(module, name, _html)
        formatters["text/plain"].for_type_by_name(module, name, _plain)


def _html(message: Any) -> str:
    from finetree.display.cards import card_of

    return card_of(message).html()


def _plain(message: Any, printer: Any, cycle: bool) -> None:  # noqa: FBT001 - IPython's signature
    from finetree.display.cards import card_of

    printer.text("…" if cycle else card_of(message).text())
