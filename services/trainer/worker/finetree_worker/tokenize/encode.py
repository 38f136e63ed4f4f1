# SPDX-License-Identifier: Apache-2.0
"""Tokenizing many texts at once, with each token's position in its text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from finetree_worker.tokenize.split_points import Splitter, lines, short_words, splitter, words

KEPT_PIECES, KEPT_TOKENS = 1 << 16, 1 << 18
"""Most different pieces, and tokens of them, that are kept before all are dropped: some 20 MB."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokens of some texts, one text after another.

    ids int32 (tokens,); starts and ends int64 (tokens,): characters, counted from the beginning of the first text;
    lengths int64 (texts,): tokens of each.
    """

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    lengths: NDArray[np.int64]


class Encoder:
    """Tokenizes many texts without adding tokens; the tokenizer may not be changed meanwhile."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        split = splitter(tokenizer)
        self._pieces = _Pieces(tokenizer, split) if split is not None else None

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Tokenize the texts, at least one."""
        if self._pieces is not None:
            return self._pieces.encode(texts)
        return _joined(_encodings(self._tokenizer, texts), texts)


def _encodings(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Any]:
    found: list[Any] | None = tokenizer(
        list(texts), add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False
    ).encodings
    if found is None:
        raise TypeError("the tokenizer is not a fast one, which alone gives the positions of its tokens")
    return found


def _joined(encodings: Iterable[Any], texts: Sequence[str]) -> Encoded:
    ids = [encoding.ids for encoding in encodings]
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    flat = np.fromiter(chain.from_iterable(ids), np.int32)
    places = chain.from_iterable(encoding.offsets for encoding in encodings)
    offsets = np.fromiter(chain.from_iterable(places), np.int64).reshape(-1, 2)
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    offsets += np.repeat(sizes.cumsum() - sizes, lengths)[:, None]
    return Encoded(flat, offsets[:, 0], offsets[:, 1], lengths)


class _Index(dict[str, int]):
    """Numbers of pieces; a new piece gets the next number, and is added to the list to tokenize."""

    def __init__(self, prefix: str, new: list[str]) -> None:
        super().__init__()
        self.first, self._prefix, self._new = 0, prefix, new

    def __missing__(self, piece: str) -> int:
        number = self[piece] = self.first + len(self._new)
        self._new.append(self._prefix + piece)
        return number


class _Pieces:
    """Tokenizes texts by their pieces, each piece once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, split: Splitter) -> None:
        self._tokenizer, self._split = tokenizer, split
        self._new: list[str] = []
        self._forget()

    def _forget(self) -> None:
        self._plain, self._spaced = _Index("", self._new), _Index(" ", self._new)
        self._known = Encoded(np.zeros(0, np.int32), *(np.zeros(0, np.int64) for _ in range(3)))
        self._sizes = np.zeros(0, np.int64)

    def encode(self, texts: Sequence[str]) -> Encoded:
        if len(self._sizes) > KEPT_PIECES or len(self._known.ids) > KEPT_TOKENS:
            self._forget()
        numbers: list[int] = []
        counts = []
        for text in texts:
            before = len(numbers)
            self._number(text, numbers)
            counts.append(len(numbers) - before)
        self._learn()
        return self._gathered(np.array(numbers, np.int64), np.array(counts, np.int64))

    def _number(self, text: str, numbers: list[int]) -> None:
        """Append the numbers of the text's pieces."""
        fine = self._split.fine and text.isascii()
        for place, part in enumerate(self._split.at_tokens(text)):
            if place % 2:
                numbers.append(self._plain[part])
            elif fine:
                numbers += map(self._plain.__getitem__, short_words(part))
            elif part:
                first, *rest = words(part)
                line, more = lines(first)
                numbers.append(self._plain[line])
                if more:
                    numbers.append(self._plain[more])
                numbers += map(self._spaced.__getitem__, rest)

    def _learn(self) -> None:
        if not self._new:
            return
        # Settings for other texts (truncation, padding) were reset by `leading_bos`, which calls the tokenizer.
        # As the words of one text, each is tokenized alone, in two thirds of the time that as many texts take.
        # `encode` holds Python's global lock meanwhile, and so stops the thread that reads; a batch of one does not.
        backend = self._tokenizer.backend_tokenizer
        (new,) = backend.encode_batch([self._new], is_pretokenized=True, add_special_tokens=False)
        sizes = np.fromiter(map(len, self._new), np.int64, len(self._new))
        offsets = np.array(new.offsets, np.int64).reshape(-1, 2)
        lengths = np.bincount(np.array(new.word_ids, np.int64), minlength=len(sizes))
        known = self._known
        self._known = Encoded(
            np.concatenate((known.ids, np.array(new.ids, np.int32))),
            np.concatenate((known.starts, offsets[:, 0])),
            np.concatenate((known.ends, offsets[:, 1])),
            np.concatenate((known.lengths, lengths)),
        )
        self._sizes = np.concatenate((self._sizes, sizes))
        self._new.clear()
        self._plain.first = self._spaced.first = len(self._sizes)

    def _gathered(self, numbers: NDArray[np.int64], counts: NDArray[np.int64]) -> Encoded:
        known, lengths, sizes = self._known, self._known.lengths[numbers], self._sizes[numbers]
        ends = lengths.cumsum()
        # For each token: where it is among the known ones, and where in the texts its piece begins.
        firsts = known.lengths.cumsum()[numbers] - known.lengths[numbers]
        at = np.repeat(firsts - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)
        base = np.repeat(sizes.cumsum() - sizes, lengths)
        bounds = np.concatenate(([0], ends))[np.concatenate(([0], counts.cumsum()))]
        return Encoded(known.ids[at], known.starts[at] + base, known.ends[at] + base, np.diff(bounds))
