# SPDX-License-Identifier: Apache-2.0
"""Tokens of texts and of what a chat template adds to them, estimated: no tokenizer, and no model, is known yet.

**Texts** are counted by their bytes in UTF-8, to which tokenizers fall back where their vocabulary ends. Tokens of 60
to 270 messages of a program's interface in each language (Django 5.2's translations), by four bytes:

| | SmolLM2 | o200k | cl100k | Llama 3 | Mistral v1 |
| --- | --- | --- | --- | --- | --- |
| English | 1.00 | 0.90 | 0.90 | 0.90 | 1.06 |
| French, German, Portuguese, Spanish | 1.4 to 1.6 | 0.9 | 1.0 to 1.1 | 1.0 to 1.1 | 1.3 to 1.4 |
| Polish, Turkish | 1.8 to 1.9 | 1.1 to 1.2 | 1.4 | 1.1 to 1.4 | 1.6 to 1.8 |
| Russian, Ukrainian | 1.7 | 0.6 to 0.8 | 0.9 to 1.2 | 0.7 to 0.8 | 1.0 |
| Arabic, Greek, Hebrew, Persian | 1.8 to 2.3 | 0.8 to 1.0 | 1.5 to 2.0 | 0.8 to 2.0 | 2.0 to 2.1 |
| Bengali, Hindi, Tamil, Thai | 1.7 to 2.7 | 0.5 to 0.6 | 1.2 to 2.0 | 0.7 to 2.0 | 1.4 to 1.7 |
| Chinese, Japanese, Korean | 2.0 to 3.1 | 0.9 to 1.2 | 1.2 to 1.7 | 0.9 to 1.2 | 1.5 to 1.7 |

**Templates** write marks and the role around each message, and many begin a row with a text of their own. Counted from
published templates (`tests/unit/data/rows/usual_templates.py` has their layouts; marks are one token each, but in
Zephyr, Tulu and Llama 2, where they are text; words are counted with SmolLM2's tokenizer, others make a few fewer):

| template | a message | a row without a system message, beside them |
| --- | --- | --- |
| ChatML: SmolLM2 | 5 | 21: "You are a helpful AI assistant named SmolLM, trained by Hugging Face" as a message |
| ChatML: Qwen 2.5 | 5 | 23: "You are Qwen, created by Alibaba Cloud. You are a helpful assistant." as a message |
| ChatML: Qwen 3, Phi 4 | 4 to 5 | 0 |
| Llama 3 | 5 | 1 |
| Llama 3.1 to 3.3 | 5 | 30: "Cutting Knowledge Date: ..., Today Date: ..."; 26 with a system message |
| Gemma | 5 | 1 |
| Phi 3, Granite, Command R | 3 to 5 | 0 to 1 |
| Mistral, DeepSeek | 1.5 | 1 |
| Zephyr, Tulu, Llama 2 | 6 to 10 | 0 |
| none: prompt and completion are joined | 1 | 0 |

Functions are offered after an instruction on how to call them: 106 tokens with Qwen 2.5, 20 where the trainer writes
it (its `tool_calls.written_out`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from finetree_data.rows.row import Message


@dataclass(frozen=True, slots=True)
class TokenRange:
    """A number of tokens that is not counted with a tokenizer: low <= expected <= high."""

    low: float
    expected: float
    high: float

    def __add__(self, other: "TokenRange") -> "TokenRange":
        """Add end by end: the errors of a file's rows go together, since one tokenizer and one template make them."""
        return TokenRange(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def times(self, number: float) -> "TokenRange":
        """Return so many times this."""
        return TokenRange(self.low * number, self.expected * number, self.high * number)


NOTHING = TokenRange(0, 0, 0)
BYTES_PER_TOKEN = 4.0
"""Bytes of a token: the rule of thumb for English text (OpenAI, "What are tokens and how to count them?")."""
ASCII = TokenRange(0.75, 1.0, 1.35)
"""Tokens of ASCII, in units of that rule. English prose, code and JSON are 1.03 to 1.25 with SmolLM2's tokenizer of
49,000 tokens; larger ones usually make fewer. Other languages in Latin letters are mostly ASCII, and are beyond the
upper end where a tokenizer has learned English alone."""
OTHER = TokenRange(0.55, 1.25, 2.5)
"""The same of all other letters. Tokenizers differ by four times; the middle of those above is expected."""
MESSAGE = TokenRange(2, 5, 8)
"""Marks and role of a message; ChatML's, Llama 3's and Gemma's 5 are expected."""
END_OF_TURN = 1
"""Those of a message's tokens that end an answer, and are learned with it."""
NO_SYSTEM_MESSAGE = TokenRange(0, 21, 30)
"""What a template begins a row with that has no system message. One is expected: rows that are counted too short would
make a run fit that does not."""
SYSTEM_MESSAGE = TokenRange(0, 0, 26)
"""The same of a row that has one."""
TOOLS = TokenRange(15, 60, 120)
"""How functions are offered, beside their schemas."""
END_OF_TEXT = TokenRange(0, 1, 2)
"""Tokens that begin and end a row of plain text, which no template renders."""


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


def template_tokens(messages: Sequence[Message], *, tools: bool = False) -> TokenRange:
    """Return the tokens of a row beyond those of its messages' contents and its functions' schemas.

    `tools` says whether functions are offered. Without messages the row is plain text.
    """
    if not messages:
        return END_OF_TEXT
    start = SYSTEM_MESSAGE if messages[0].role in ("system", "developer") else NO_SYSTEM_MESSAGE
    added = MESSAGE.times(len(messages)) + start
    return added + TOOLS if tools else added
