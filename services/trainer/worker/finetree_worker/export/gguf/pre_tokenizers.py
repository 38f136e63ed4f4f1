# SPDX-License-Identifier: Apache-2.0
"""How llama.cpp splits a text before byte-pair encoding, by the names that files give it (`tokenizer.ggml.pre`).

A file names the split, it does not hold it: under a wrong name the same vocabulary makes other tokens, and a good model
answers badly. So a name is only written where its rule stands here, and the file is read back by that rule.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerBase

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_TAIL}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_TAIL}"
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_TAIL}"
)
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_TAIL}"
)


@dataclass(frozen=True, slots=True)
class Split:
    """A way of llama.cpp to split texts: regular expressions, applied one after the other to what is left whole.

    With `ignore_merges` a piece that is a token of the vocabulary is that token, whatever the merges say.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False

    def pre_tokenizer(self) -> Any:
        """Return the split as a pre-tokenizer of bytes."""
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns]
        return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


SPLITS: Mapping[str, Split] = {
    "llama-bpe": Split((_LLAMA3,), ignore_merges=True),
    "smaug-bpe": Split((_LLAMA3,)),
    "qwen2": Split((_QWEN2,)),
    "qwen35": Split((_QWEN35,)),
    "tekken": Split((_TEKKEN,), ignore_merges=True),
    "smollm": Split((r"\p{N}", _GPT2)),
    "gpt-2": Split((_GPT2,)),
}
"""By name (llama.cpp's llama-vocab.cpp, as in llama-cpp-python 0.3.36)."""

KNOWN_HASHES: Mapping[str, str] = {
    "0ef9807a4087ebef797fc749390439009c3b9eda9ad1a097abbe738f486c01e5": "llama-bpe",
    "e636dc30a262dcc0d8c323492e32ae2b70728f4df7dfe9737d9f920a282b8aea": "qwen2",
    "d4540891389ea895b53b399da6ac824becc30f2fba0e9ddbb98f92e55ca0e97c": "qwen2",
    "b3f499bb4255f8ca19fccd664443283318f2fd2414d5e0b040fbdd0cc195d6c5": "qwen2",
    "d30d75d9059f1aa2c19359de71047b3ae408c70875e8a3ccf8c5fba56c9d8af4": "qwen35",
    "63b97e4253352e6f357cc59ea5b583e3a680eaeaf2632188c2b952de2588485e": "tekken",
    "855059429035d75a914d1eda9f10a876752e281a054a7a3d421ef0533e5b6249": "smollm",
    "3ce83efda5659b07b1ad37ca97ca5797ea4285d9b9ab0dc679e4a720c9da7454": "gpt-2",
}
"""Names by what a tokenizer makes of `CHECK_TEXT`, as llama.cpp's converter knows them."""

CHECK_TEXT = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u200d🌫️ (multiple emojis concatenated) ✅ 🦙🦙 "
    "3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ "  # noqa: RUF001 - as it is there
    "------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? "
    "'M not sure I'll make it, 'D you like some tea? We'Ve a'lL"
)
"""The converter's own text, to the letter: its hashes are of its tokens."""


def name_of(tokenizer: PreTrainedTokenizerBase, steps: list[dict[str, Any]], *, ignore_merges: bool) -> str | None:
    """Return the name of a tokenizer's split: by its hash where that is known, else by its rule; None for neither.

    `steps` are those of its pre-tokenizer (tokenizer.json).
    """
    tokens: list[int] = tokenizer.encode(CHECK_TEXT)
    known = KNOWN_HASHES.get(hashlib.sha256(str(tokens).encode()).hexdigest())
    if known is not None:
        return known
    patterns = _patterns(steps)
    named = [name for name, split in SPLITS.items() if split.patterns == patterns]
    exact = [name for name in named if SPLITS[name].ignore_merges == ignore_merges]
    return next(iter([*exact, *named]), None)


def _patterns(steps: list[dict[str, Any]]) -> tuple[str, ...] | None:
    """Return the patterns of a pre-tokenizer's steps in the words of SPLITS; None for a step that is not known."""
    found: list[str] = []
    for step in steps:
        match step:
            case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
                found.append(str(pattern))
            case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True}:
                # What is kept are the matches, and the patterns here match all of a text.
                found.append(str(pattern))
            case {"type": "Digits", "individual_digits": True}:
                found.append(r"\p{N}")
            case {"type": "ByteLevel", "add_prefix_space": False}:
                # Without a word on it, it splits as GPT-2 does.
                found += [_GPT2] if step.get("use_regex", True) else []
            case _:
                return None
    return tuple(found)
