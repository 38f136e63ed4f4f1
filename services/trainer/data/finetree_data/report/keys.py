# SPDX-License-Identifier: Apache-2.0
"""Hashes of a row's content and of its prompt: by them rows are compared, and held out."""

from hashlib import blake2b

from finetree_data.rows.row import Message, Row


def row_keys(row: Row) -> tuple[int, int]:
    """Return 64-bit hashes of a row's content and of the part before its last answer, 0 where it has no question.

    The probability that any two of ten million different rows share a hash is 3e-6 (n^2 / 2^65, the birthday bound).
    """
    # The text of repr(row) with number 0, which takes three times as long: splits depend on these hashes.
    said = [_said(message) for message in row.messages]
    content = f"Row(number=0, messages={_tuple(said)}, text={row.text!r}, tools={row.tools!r})"
    last = next((i for i in reversed(range(len(said))) if row.messages[i].role == "assistant"), 0)
    return _hash(content), (_hash(_tuple(said[:last])) or 1) if last else 0


def _said(message: Message) -> str:
    words = f"role={message.role!r}, content={message.content!r}, tool_calls={message.tool_calls!r}"
    rest = f"tool_call_id={message.tool_call_id!r}, name={message.name!r}, learned={message.learned!r}"
    return f"Message({words}, {rest})"


def _tuple(items: list[str]) -> str:
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"


def _hash(text: str) -> int:
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
