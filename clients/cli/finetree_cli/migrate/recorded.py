# SPDX-License-Identifier: Apache-2.0
"""Recorded answers of an OpenAI model, as stored completions, evaluation runs and batches have them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Recorded:
    """An answer, and the messages that it answers."""

    messages: tuple[Message, ...]
    answer: str
    model: str = ""
    """Model that answered; empty where the record does not say."""

    @property
    def prompt(self) -> str:
        """Text of the last message."""
        return text_of(self.messages[-1].get("content")) if self.messages else ""


def read_recorded(documents: Iterable[Mapping[str, Any]]) -> list[Recorded]:
    """Read the records among documents; a batch's answers are put to its requests by their `custom_id`.

    Read are chat completions with their `messages` (or `input`) and `choices`, output items of evaluation runs, and
    lines of batch files. What has no question or no text for an answer is left out.
    """
    asked: dict[str, Mapping[str, Any]] = {}
    found: list[tuple[Any, Any, Any]] = []
    answered: list[tuple[str, Mapping[str, Any]]] = []
    for item in documents:
        sample, response, body = item.get("sample"), item.get("response"), item.get("body")
        if isinstance(sample, dict):
            found.append((sample.get("input"), _last_output(sample.get("output")), sample.get("model")))
        elif isinstance(response, dict) and isinstance(response.get("body"), dict):
            answered.append((str(item.get("custom_id")), response["body"]))
        elif isinstance(body, dict):
            asked[str(item.get("custom_id"))] = body
        elif isinstance(item.get("choices"), list):
            found.append((item.get("messages", item.get("input")), _choice(item), item.get("model")))
    for name, body in answered:
        found.append((asked.get(name, {}).get("messages"), _choice(body), body.get("model")))
    records = (_record(messages, answer, model) for messages, answer, model in found)
    return [each for each in records if each is not None]


def evaluation_rows(records: Sequence[Recorded], references: Mapping[str, str]) -> list[dict[str, Any]]:
    """Make rows that ask what was asked before; the expected answer is the reference where there is one."""
    return [
        {
            "messages": [
                *each.messages,
                {"role": "assistant", "content": references.get(key_of(each.messages), each.answer)},
            ]
        }
        for each in records
    ]


def read_references(file: Path) -> dict[str, str]:
    """Read the answers of a file of chat rows by the messages before them."""
    found = {}
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            messages = json.loads(line).get("messages") if line.strip() else None
            if isinstance(messages, list) and len(messages) > 1 and messages[-1].get("role") == "assistant":
                found[key_of(messages[:-1])] = text_of(messages[-1].get("content"))
    return found


def key_of(messages: Sequence[Message]) -> str:
    """Key of messages: equal for the same roles and texts."""
    return json.dumps([[each.get("role"), text_of(each.get("content"))] for each in messages])


def text_of(content: Any) -> str:
    """Text of a message's content, which may be a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") if isinstance(part, dict) else str(part) for part in content)
    return content if isinstance(content, str) else ""


def _record(messages: Any, answer: Any, model: Any) -> Recorded | None:
    text = text_of(answer)
    if not isinstance(messages, list) or not messages or not text:
        return None
    plain = tuple({"role": each.get("role"), "content": text_of(each.get("content"))} for each in messages)
    if not all(each["role"] in ("system", "developer", "user", "assistant") and each["content"] for each in plain):
        return None
    return Recorded(plain, text, model if isinstance(model, str) else "")


def _choice(completion: Mapping[str, Any]) -> Any:
    choices = completion.get("choices")
    message = choices[0].get("message") if isinstance(choices, list) and choices else None
    return message.get("content") if isinstance(message, dict) else None


def _last_output(output: Any) -> Any:
    last = output[-1] if isinstance(output, list) and output else None
    return last.get("content") if isinstance(last, dict) else None
