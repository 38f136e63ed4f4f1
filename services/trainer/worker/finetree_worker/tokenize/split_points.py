# SPDX-License-Identifier: Apache-2.0
"""Where a text may be cut so that its pieces, each tokenised alone, give the tokens of the whole.

Byte-level BPE cuts a text into words first, by a regular expression, and merges bytes only within a word. In GPT-2's
expression and in those of `PATTERNS` a match has white space only at its beginning or its end, and looks at nothing
before it. So one ends, and the next begins,

* before a single space between two other characters;
* behind a single line break between two others, of which the second is a letter or a digit;
* behind a letter or a digit of ASCII that another character of ASCII follows, but an apostrophe ("don't").
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerBase

_ENGLISH, _REST = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = frozenset(
    (
        _ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _REST,
        _ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _REST,
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENGLISH}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENGLISH}?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _REST,
    )
)
"""As tokenizer.json writes them: Llama 3's and SmolLM 3's; Qwen 2's to 3's; gpt-oss's and Phi 4 mini's."""


@dataclass(frozen=True, slots=True)
class Splitter:
    """How the texts of a tokenizer are cut.

    `at_tokens` gives text, special token, text, token, …, text. `fine` says that ASCII may be cut behind each word.
    """

    at_tokens: Callable[[str], list[str]]
    fine: bool


def splitter(tokenizer: PreTrainedTokenizerBase) -> Splitter | None:
    """How texts are cut; None for a tokenizer that may treat a piece otherwise than in its text."""
    backend: Tokenizer = tokenizer.backend_tokenizer
    added = list(backend.get_added_tokens_decoder().values())
    if tokenizer.split_special_tokens or not (_is_by_words(backend) and all(map(_is_solid, added))):
        return None
    contents = {token.content for token in added}
    sought = {token.content for token in added if not token.normalized and token.content[0] + token.content[-1] == "<>"}
    # No token may overlap one that is sought: what is found first, and longest, is the same then.
    if any("<" in content[1:] or ">" in content[:-1] for content in contents):
        sought = set()
    fine = not any(re.search("[A-Za-z0-9][^A-Za-z0-9]", content) for content in contents - sought)
    if not sought:
        return Splitter(lambda text: [text], fine)
    longest_first = sorted(sought, key=len, reverse=True)
    return Splitter(re.compile("(" + "|".join(map(re.escape, longest_first)) + ")").split, fine)


def short_words(text: str) -> list[str]:
    """The pieces of a text of ASCII, cut behind words."""
    return _SHORT_WORDS(text)


_SHORT_WORDS = re.compile(
    r"[^A-Za-z0-9]+(?:[A-Za-z0-9]+(?:'[^A-Za-z0-9]*[A-Za-z0-9]*)*)?"
    r"|[A-Za-z0-9]+(?:'[^A-Za-z0-9]*[A-Za-z0-9]*)*"
).findall


def words(text: str) -> list[str]:
    """The text's pieces: the first as it is, the others without the space that they begin with.

    Python's white space is that of the expressions and U+001C to U+001F: it cuts at fewer places, at no more.
    """
    return _WORDS(text)


_WORDS = re.compile(r" (?=\S)(?<=\S )").split


def lines(piece: str) -> tuple[str, str]:
    """A piece cut behind its first line break, where it may be; else the piece and ""."""
    line, _, rest = piece.partition("\n")
    if line and rest and rest[0].isalnum() and not line[-1].isspace():
        return line + "\n", rest
    return piece, ""


def _is_by_words(backend: Tokenizer) -> bool:
    model = backend.model
    return (
        isinstance(model, BPE)
        and not model.dropout
        and _rule(backend.normalizer) in ({}, {"type": "NFC"})
        and _cuts_into_words(_steps(backend.pre_tokenizer, "pretokenizers"))
        and all(map(_leaves_places, _steps(backend.post_processor, "processors")))
    )


def _rule(part: Any) -> dict[str, Any]:
    """A part of a tokenizer as tokenizer.json has it; {} for none."""
    rule: dict[str, Any] = json.loads(part.__getstate__()) if part is not None else {}
    return rule


def _steps(part: Any, name: str) -> list[dict[str, Any]]:
    rule = _rule(part)
    steps: list[dict[str, Any]] = rule[name] if rule.get("type") == "Sequence" else [rule] if rule else []
    return steps


def _cuts_into_words(steps: list[dict[str, Any]]) -> bool:
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return False
    by_pattern = steps[-1]["use_regex"] or any(step["type"] == "Split" for step in steps)
    return by_pattern and all(map(_is_known, steps[:-1]))


def _is_known(step: dict[str, Any]) -> bool:
    if step["type"] == "Digits":  # cuts them out before; the expression then cuts what is left of them, and right
        return True
    isolated = step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]
    return isolated and step["pattern"].get("Regex") in PATTERNS


def _leaves_places(step: dict[str, Any]) -> bool:
    """Whether a step leaves alone where a token is said to stand; what ByteLevel trims hangs on what is before it."""
    return step["type"] == "TemplateProcessing" or (step["type"] == "ByteLevel" and not step["trim_offsets"])


def _is_solid(token: AddedToken) -> bool:
    """Whether there is no white space in an added token, or taken from around it, so that no cut is within it."""
    loose = token.lstrip or token.rstrip or token.single_word or not token.content
    return not loose and not re.search(r"\s", token.content)
