# SPDX-License-Identifier: Apache-2.0
"""Tokens of a text, estimated from its bytes in UTF-8: no tokenizer is known yet.

A byte-level tokenizer falls back to bytes where its vocabulary ends, so that bytes say more than characters. Tokens of
60 to 270 messages of a program's interface in each language (Django 5.2's translations), by four bytes:

| | SmolLM2 | o200k | cl100k | Llama 3 | Mistral v1 |
| --- | --- | --- | --- | --- | --- |
| English | 1.00 | 0.90 | 0.90 | 0.90 | 1.06 |
| French, German, Portuguese, Spanish | 1.4 to 1.6 | 0.9 | 1.0 to 1.1 | 1.0 to 1.1 | 1.3 to 1.4 |
| Polish, Turkish | 1.8 to 1.9 | 1.1 to 1.2 | 1.4 | 1.1 to 1.4 | 1.6 to 1.8 |
| Russian, Ukrainian | 1.7 | 0.6 to 0.8 | 0.9 to 1.2 | 0.7 to 0.8 | 1.0 |
| Arabic, Greek, Hebrew, Persian | 1.8 to 2.3 | 0.8 to 1.0 | 1.5 to 2.0 | 0.8 to 2.0 | 2.0 to 2.1 |
| Bengali, Hindi, Tamil, Thai | 1.7 to 2.7 | 0.5 to 0.6 | 1.2 to 2.0 | 0.7 to 2.0 | 1.4 to 1.7 |
| Chinese, Japanese, Korean | 2.0 to 3.1 | 0.9 to 1.2 | 1.2 to 1.7 | 0.9 to 1.2 | 1.5 to 1.7 |
"""

from finetree_data.counting.template_tokens import NOTHING, TokenRange

BYTES_PER_TOKEN = 4.0
"""Bytes of a token: the rule of thumb for English text (OpenAI, "What are tokens and how to count them?")."""
ASCII = TokenRange(0.75, 1.0, 1.35)
"""Tokens of ASCII, in units of that rule. English prose, code and JSON are 1.03 to 1.25 with SmolLM2's tokenizer of
49,000 tokens; larger ones usually make fewer. Other languages in Latin letters are mostly ASCII, and are beyond the
upper end where a tokenizer has learned English alone."""
OTHER = TokenRange(0.55, 1.25, 2.5)
"""The same of all other letters. Tokenizers differ by four times; the middle of those above is expected."""


def text_tokens(text: str) -> TokenRange:
    """Return the estimated tokens of a text: none is less than a token long, unless it is empty."""
    if text.isascii():
        return tokens_of_bytes(len(text))
    plain = len(text.encode("ascii", "ignore"))
    # Half of a surrogate pair can be written in JSON, and is for whoever checks rows to refuse.
    return tokens_of_bytes(plain, len(text.encode("utf-8", "surrogatepass")) - plain)


def tokens_of_bytes(plain: int, other: int = 0) -> TokenRange:
    """Return the estimated tokens of so many bytes of ASCII and of others."""
    if not (plain or other):
        return NOTHING
    by_rule = ASCII.times(plain / BYTES_PER_TOKEN) + OTHER.times(other / BYTES_PER_TOKEN)
    # Whole expected tokens; the ends keep their distance to them.
    expected = max(1, round(by_rule.expected))
    return by_rule.times(expected / by_rule.expected)
