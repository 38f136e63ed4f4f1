# SPDX-License-Identifier: Apache-2.0
"""Tokens to text while they come: whole code points only, and nothing of a stop string.

Byte-level vocabularies split a code point over tokens, and decoders treat the first token of a text in a way of their
own. So a token is decoded behind those before it, and what it adds is the difference; an incomplete code point, which
decodes to U+FFFD, waits for the token that completes it.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_REPLACEMENT = "\ufffd"
_LONGEST_WAIT = 16
"""Tokens that an incomplete code point waits for at most; four bytes are the longest, so more are no code point."""


class Detokenizer:
    """Decodes one answer. The pieces, joined, are the decoded answer, without special tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._before = self._read = 0
        """Tokens from `_before` on are decoded together; those up to `_read` are in the text already."""

    def add(self, token: int) -> str:
        """Return the text that a token completes; empty where it completes none."""
        self._tokens.append(token)
        return self._advance(final=False)

    def finish(self) -> str:
        """Return the rest: an incomplete code point, as U+FFFD."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        known = self._decode(self._tokens[self._before : self._read])
        text = self._decode(self._tokens[self._before :])
        waits = text.endswith(_REPLACEMENT) and len(self._tokens) - self._read < _LONGEST_WAIT
        if len(text) <= len(known) or (waits and not final):
            return ""
        self._before, self._read = self._read, len(self._tokens)
        return text[len(known) :]

    def _decode(self, tokens: list[int]) -> str:
        text = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)


class StopStrings:
    """Cuts a text before the first stop string; what may be the beginning of one waits for the next piece."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._waiting = ""
        self.found = False
        """Whether a stop string was reached: nothing follows."""

    def add(self, text: str) -> str:
        """Return what can be shown of the text so far."""
        if not self._stop:
            return text
        seen = self._waiting + text
        places = [place for stop in self._stop if (place := seen.find(stop)) >= 0]
        if places:
            self.found, self._waiting = True, ""
            return seen[: min(places)]
        keep = max(_overlap(seen, stop) for stop in self._stop)
        self._waiting = seen[len(seen) - keep :]
        return seen[: len(seen) - keep]

    def finish(self) -> str:
        """Return what waited: the answer ended before it became a stop string."""
        rest, self._waiting = self._waiting, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of the text that a stop string begins with."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
