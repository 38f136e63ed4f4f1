# SPDX-License-Identifier: Apache-2.0
"""Which open base model takes the place of an OpenAI model.

OpenAI publishes no sizes, so the tier that a name states decides. Chat models become models with a chat template, the
two for plain completions become base models without one. All of them may be used freely (Apache-2.0).
"""

from typing import NamedTuple


class Choice(NamedTuple):
    """A base model of the catalog, and the rule that chose it."""

    name: str
    rule: str


_BY_PREFIX = (
    ("babbage-002", "qwen2.5-1.5b", "a small model for completions"),
    ("davinci-002", "qwen2.5-7b", "a large model for completions"),
    ("gpt-3.5-turbo", "qwen3-8b", "a small chat model"),
)
_BY_TIER = (
    ("nano", "qwen3-4b", "the smallest tier"),
    ("mini", "qwen3-8b", "the small tier"),
)
_LARGE = "qwen3-32b"
DEFAULT = "qwen3-8b"


def choose(model: str) -> Choice:
    """Choose the base model for a model's name, such as "gpt-4o-mini-2024-07-18" or a tuned model's "ft:…"."""
    name = model.removeprefix("ft:").partition(":")[0]
    for prefix, chosen, what in _BY_PREFIX:
        if name.startswith(prefix):
            return Choice(chosen, f"{name} is {what}")
    for tier, chosen, what in _BY_TIER:
        if tier in name.split("-"):
            return Choice(chosen, f"{name} is of {what}")
    if name.startswith(("gpt-4", "gpt-5", "o")):
        return Choice(_LARGE, f"{name} is of the large tier")
    return Choice(DEFAULT, f"{name} is not known" if name else "the export names no model")
