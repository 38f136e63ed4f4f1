# SPDX-License-Identifier: Apache-2.0
"""Write a RunSpec as a job file, with the reason of each value in a comment."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from finetree.money import format_money, parse_money
from finetree_api.types.v1 import check_pb2, run_spec_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from finetree_cli.jobfile.yaml_scalars import enum_word

COMMENT_COLUMN = 44
"""Column at which comments begin, so that they line up beside the longest common settings."""


def to_yaml(
    spec: run_spec_pb2.RunSpec, sources: Iterable[check_pb2.SettingSource] = (), header: Iterable[str] = ()
) -> str:
    """Write a spec as YAML that `jobfile.job.parse_job` reads back to an equal spec; `header` lines are comments."""
    reasons = {source.field_path: _reason(source) for source in sources}
    lines = [f"# {_one_line(line)}" for line in header]
    lines += _mapping(spec, "", 0, reasons)
    return "\n".join(lines) + "\n"


def _mapping(message: Message, path: str, indent: int, reasons: dict[str, str]) -> Iterator[str]:
    for known, value in message.ListFields():
        at = f"{path}.{known.name}" if path else known.name
        head = f"{' ' * indent}{known.name}:"
        if known.is_repeated:
            yield from _list(known, value, head, reasons.get(at, ""))
        elif text := _as_text(known, value):
            yield _commented(f"{head} {text}", reasons.get(at, ""))
        elif known.message_type is not None:
            body = list(_mapping(value, at, indent + 2, reasons))
            yield _commented(head if body else f"{head} {{}}", reasons.get(at, ""))
            yield from body
        else:
            yield _commented(f"{head} {_scalar(known, value)}", reasons.get(at, ""))


def _list(known: FieldDescriptor, values: Any, head: str, reason: str) -> Iterator[str]:
    """Write a list of scalars on its key's line, a list of messages below it."""
    if known.message_type is None:
        items = ", ".join(_scalar(known, value) for value in values)
        yield _commented(f"{head} [{items}]", reason)
        return
    yield _commented(head, reason)
    indent = len(head) - len(head.lstrip())
    for item in values:
        body = list(_mapping(item, "", indent + 4, {})) or ["{}"]
        yield f"{' ' * (indent + 2)}- {body[0].lstrip()}"
        yield from body[1:]


def _as_text(known: FieldDescriptor, value: Any) -> str:
    """Write a message that has a form as text: an amount of money. "" for any other."""
    if known.message_type is None or known.message_type.full_name != "google.type.Money":
        return ""
    text = format_money(value)
    try:
        return text if parse_money(text) == value else ""
    except ValueError:  # no currency: such an amount is written as a message
        return ""


def _scalar(known: FieldDescriptor, value: Any) -> str:
    if known.enum_type is not None:
        return _text(enum_word(known.enum_type, value))
    if known.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "true" if value else "false"
    if known.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _text(value)
    return repr(value)


def _text(value: str) -> str:
    """Write a name bare and any other text in double quotes: a JSON string is a YAML string."""
    plain = value.replace("-", "").replace("_", "").replace("/", "")
    words = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
    is_name = plain.isascii() and plain.isalnum() and value[0].isalpha() and value.lower() not in words
    return value if is_name else json.dumps(value, ensure_ascii=False)


def _reason(source: check_pb2.SettingSource) -> str:
    """Return reason, range and source: "usual [recipe.clip]; 0.3 to 1; torchtune, clip_grad_norm"."""
    rule = f" [{source.rule_id}]" if source.rule_id else ""
    low, high = (
        f"{source.min:g}" if source.HasField("min") else "",
        f"{source.max:g}" if source.HasField("max") else "",
    )
    origin = ", ".join(part for part in (source.provenance.source, source.provenance.locator) if part)
    parts = (f"{source.reason}{rule}", f"{low} to {high}".strip() if low or high else "", origin)
    return _one_line("; ".join(part for part in parts if part))


def _commented(line: str, reason: str) -> str:
    return f"{line.ljust(COMMENT_COLUMN)} # {reason}" if reason else line


def _one_line(text: str) -> str:
    """Join lines: text that cannot end its comment."""
    return " ".join(text.split())
