# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF001 - DeepSeek writes its marks with the full-width bar
"""The marks that the usual chat templates write around turns, as the models' tokenizer_config.json have them."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks of a family of chat templates.

    `header` begins a turn and names its role; `end` ends one. Where `ends_all` is false, the next header ends a turn
    as well. `leads` says that a text before the first header is the system message.
    """

    name: str
    header: re.Pattern[str]
    end: re.Pattern[str]
    ends_all: bool = True
    leads: bool = False


_BOS = re.compile(
    r"\s*(?:<s>|<bos>|<\|begin_of_text\|>|<\|startoftext\|>|<BOS_TOKEN>|<｜begin▁of▁sentence｜>|\[gMASK\]<sop>)?"
)
"""A begin-of-sequence token before the first header, which the tokenizer adds again."""
FAMILIES = (
    # ChatML: Qwen, SmolLM, Yi, Hermes; Phi 4, which separates the role by <|im_sep|>.
    Marks("ChatML", re.compile(r"<\|im_start\|>(?P<role>\w+)(?:\n|<\|im_sep\|>|\Z)"), re.compile(r"<\|im_end\|>\n?")),
    Marks(
        "Llama 3",
        re.compile(r"<\|start_header_id\|>(?P<role>\w+)<\|end_header_id\|>(?:\n\n|\Z)"),
        re.compile(r"<\|(?:eot_id|end_of_text)\|>"),
    ),
    Marks("Gemma", re.compile(r"<start_of_turn>(?P<role>\w+)(?:\n|\Z)"), re.compile(r"<end_of_turn>\n?(?:<eos>)?")),
    Marks(
        "Granite",
        re.compile(r"<\|start_of_role\|>(?P<role>\w+)<\|end_of_role\|>"),
        re.compile(r"<\|end_of_text\|>\n?"),
    ),
    Marks(
        "Command R",
        re.compile(r"<\|START_OF_TURN_TOKEN\|><\|(?P<role>USER|CHATBOT|SYSTEM)_TOKEN\|>"),
        re.compile(r"<\|END_OF_TURN_TOKEN\|>"),
    ),
    # Zephyr and TinyLlama, Tulu and OLMo (no mark ends a question), Phi 3, GLM 4.
    Marks(
        "Zephyr",
        re.compile(r"<\|(?P<role>system|user|assistant)\|>(?:\n|\Z|(?=\S))"),
        re.compile(r"(?:</s>|<\|end\|>|<\|endoftext\|>)\n?"),
        ends_all=False,
    ),
    # Llama 2 and Mistral; the system message of Llama 2 stands inside the first question.
    Marks(
        "Mistral",
        re.compile(r"(?P<role>\[INST\]|\[SYSTEM_PROMPT\]) ?|(?P<answer> ?\[/INST\]) ?"),
        re.compile(r" ?</s>(?:<s>)?\s*|\[/SYSTEM_PROMPT\]"),
        ends_all=False,
    ),
    # Its channels are not read back, see `rows.rendered_chat`.
    Marks("gpt-oss", re.compile(r"<\|start\|>(?P<role>\w+)"), re.compile(r"<\|(?:end|return)\|>")),
    Marks(
        "DeepSeek",
        re.compile(r"<｜(?P<role>User|Assistant)｜>"),
        re.compile(r"<｜end▁of▁sentence｜>"),
        ends_all=False,
        leads=True,
    ),
)
"""The marks of the usual templates, as the models' tokenizer_config.json have them."""
ENDS = (
    *("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|return|>", "<|END_OF_TURN_TOKEN|>", "</s>"),
    *("<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "<eos>"),
)
"""Tokens that end a turn or a text. One that a file has written behind an answer would be learned twice."""


def rendered_by(text: object) -> str:
    """Return the family of the marks that a text begins with; "" for a text that no template has rendered."""
    marks = marks_of(text) if isinstance(text, str) else None
    return marks.name if marks is not None else ""


def marks_of(text: str) -> Marks | None:
    """Return the family of the marks that a text begins with; None for none."""
    if not text[:64].lstrip().startswith(("<", "[")):
        return None
    at = first_turn(text)
    for marks in FAMILIES:
        if marks.header.match(text, at) and not text.startswith("[/INST]", at):
            return marks
        if marks.leads and "begin▁of▁sentence" in text[:at] and marks.header.search(text, at):
            return marks
    return None


def first_turn(text: str) -> int:
    """Return where the first turn of a text begins, behind a begin-of-sequence token."""
    found = _BOS.match(text)
    return found.end() if found else 0


def without_end(text: str) -> str:
    """Return an answer without the end-of-turn tokens that a template has written behind it."""
    while (bare := text.rstrip()).endswith(ENDS):
        end = next(end for end in ENDS if bare.endswith(end))
        if end == "</s>" and "<s>" in bare[1:]:  # struck-out text in HTML
            break
        text = bare.removesuffix(end)
    return text
