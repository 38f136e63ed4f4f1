# SPDX-License-Identifier: Apache-2.0
"""Answers as text and as HTML."""

from __future__ import annotations

from google.protobuf.message import Message

from finetree.display.cards import card_of


def to_text(message: Message) -> str:
    """Write an answer as a person would read it; `str(message)` is the contract's text format.

    Args:
        message: a Job, a JobEvent, an Estimate, a RecommendResponse or a GetCapacityResponse.

    Raises:
        TypeError: Another message; `to_json` takes any.
    """
    return card_of(message).text()


def to_html(message: Message) -> str:
    """Write an answer as a piece of HTML, as notebooks show it. Whatever comes from outside is escaped.

    Args:
        message: as for `to_text`.

    Raises:
        TypeError: Another message; `to_json` takes any.
    """
    return card_of(message).html()
