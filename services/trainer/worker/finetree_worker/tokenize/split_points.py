# SPDX-License-Identifier: Apache-2.0
"""Points where a text may be cut so that its pieces, each tokenized alone, give the tokens of the whole.

Byte-level BPE cuts a text into words first, by a regular expression, and merges bytes only within a word. In GPT-2's
expression and in those of `PATTERNS` a match has white space only at its beginning or its end, and looks at nothing
before it. So one ends, and the next begins,

* before a single space between two other characters;
* after a single line break between two others, of which the second is a letter or a digit;
* after a letter or a digit of ASCII that another character of ASCII follows, but an apostrophe ("don't").
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
"""Regular expressions in tokenizer.json of Llama 3 and SmolLM 3; of Qwen 2 to 3; of gpt-oss and Phi 4 mini."""


@dataclass(frozen=True, slots=True)
class Splitter:
    """Rules for cutting a tokenizer's texts.

    `at_tokens` returns text, special token, text, token, …, text. `fine` says that ASCII may be cut after each word.
    """

    at_tokens: Callable[[str], list[str]]
    fine: bool


def splitter(tokenizer: PreTrainedTokenizerBase) -> Splitter | None:
    """Return the rules of a tokenizer; None for one that may tokenize a piece differently from its text."""
    backend: Tokenizer = tokenizer.backend_tokenizer
    added = list(backend.get_added_tokens_decoder().values())
    if tokenizer.split_special_tokens or not (_is_by_words(backend) and all(map(_is_solid, added))):
        return None
    contents = {token.content for token in added}
    sought = {token.content for token in added if not token.normalized and token.content[0] + token.content[-1] == "<>"}
    # No token may overlap one that is sought: then the first and longest match is the tokenizer's.
    if any("<" in content[1:] or ">" in content[:-1] for content in contents):
        sought = set()
    fine = not any(re.search("[A-Za-z0-9][^A-Za-z0-9]", content) for content in contents - sought)
    if not sought:
        return Splitter(lambda text: [text], fine)
    longest_first = sorted(sought, key=len, reverse=True)
    return Splitter(re.compile("(" + "|".join(map(re.escape, longest_first)) + ")").split, fine)


def short_words(text: str) -> list[str]:
    """Return the pieces of an ASCII text, cut after words."""
    return _SHORT_WORDS(text)


_SHORT_WORDS = re.compile(
    # Possessive, since nothing is found by giving back: a quarter faster.
    r"[^A-Za-z0-9]*+[A-Za-z0-9]++(?:'[^A-Za-z0-9]*+[A-Za-z0-9]*+)*+|[^A-Za-z0-9]++"
).findall


def words(text: str) -> list[str]:
    """Return the text's pieces: the first as it is, the others without the space that they begin with.

    Python's white space is that of the expressions and U+001C to U+001F: it cuts at fewer points, at no others.
    """
    return _WORDS(text)


_WORDS = re.compile(r" (?=\S)(?<=\S )").split


def lines(piece: str) -> tuple[str, str]:
    """Return a piece cut after its first line break, where that is allowed; else the piece and ""."""
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
        and all(map(_keeps_positions, _steps(backend.post_processor, "processors")))
    )


def _rule(part: Any) -> dict[str, Any]:
    """Return a part of a tokenizer as in tokenizer.json; {} for none."""
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


def _keeps_positions(step: dict[str, Any]) -> bool:
    """Return whether a step keeps the tokens' positions; ByteLevel's trimming depends on the text before."""
    return step["type"] == "TemplateProcessing" or (step["type"] == "ByteLevel" and not step["trim_offsets"])


def _is_solid(token: AddedToken) -> bool:
    """Return whether an added token has no white space and takes none from around it, so that no cut is within it."""
    loose = token.lstrip or token.rstrip or token.single_word or not token.content
    return not loose and not re.search(r"\s", token.content)
