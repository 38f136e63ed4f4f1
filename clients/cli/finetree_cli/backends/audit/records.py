# SPDX-License-Identifier: Apache-2.0
"""The records in the files of an audit log, in order (docs/audit.md has the format)."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetree_cli.errors import BadInput

PATTERN = "audit-*.jsonl"
_HASH_CHARACTERS = 64
_TAIL = len(',"hash":"') + _HASH_CHARACTERS + len('"}')


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file. `record` is empty where it is none, or where its hash is not its own."""

    file: Path
    number: int
    raw: bytes
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def seq(self) -> int:
        """Number of the record."""
        return int(self.record["seq"])

    @property
    def hash(self) -> str:
        """Hash of the record."""
        return str(self.record["hash"])

    @property
    def place(self) -> str:
        """File and line, for people."""
        return f"{self.file.name}:{self.number}"


def logs(folder: Path) -> list[Path]:
    """Folders with an audit log: the given one, or those of the services in it. Raises BadInput where there is none."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder", reason="AUDIT_NOT_FOUND")
    found = [place for place in (folder, *sorted(folder.iterdir())) if place.is_dir() and any(place.glob(PATTERN))]
    if not found:
        text = f"{folder} has no audit log: no file {PATTERN} is in it or in a folder below it"
        raise BadInput(text, remedy="name the folder that the service's --audit-dir names", reason="AUDIT_NOT_FOUND")
    return found


def lines(log: Path) -> Iterator[Line]:
    """Lines of a log, its files in the order of their names. Raises BadInput where one cannot be read."""
    for file in sorted(log.glob(PATTERN)):
        try:
            with file.open("rb") as stream:
                for number, raw in enumerate(stream, start=1):
                    yield Line(file, number, raw, _record(raw))
        except OSError as error:
            raise BadInput(f"{file} cannot be read: {error.strerror}", reason="FILE_UNREADABLE") from None


def _record(raw: bytes) -> dict[str, Any]:
    """Parse a line whose hash is its own; nothing where it is another one, or cut off."""
    line = raw.removesuffix(b"\n")
    body, tail = line[:-_TAIL] + b"}", line[-_TAIL:]
    if line == raw or tail != f',"hash":"{hashlib.sha256(body).hexdigest()}"}}'.encode():
        return {}
    try:
        document = json.loads(line)
    except ValueError:
        return {}
    whole = isinstance(document, dict) and type(document.get("seq")) is int and isinstance(document.get("prev"), str)
    return document if whole else {}
