# SPDX-License-Identifier: Apache-2.0
"""Verifies the chain of an audit log, and finds the first record that is not as it was written.

A log whose end was cut off is a shorter log without a fault; so is one that was written anew from a record on, with all
hashes. Only a hash that was kept elsewhere tells: `heads`.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from finetree_cli.backends.audit.records import Line, lines

START = "0" * 64
"""`prev` of a log's first record."""

Kind = Literal["changed", "removed", "reordered", "inserted"]


@dataclass(frozen=True, slots=True)
class Fault:
    """The first record that is not as it was written: its number, and where that shows."""

    kind: Kind
    seq: int
    file: str
    line: int
    text: str


@dataclass(slots=True)
class Verdict:
    """What was found in one log."""

    folder: Path
    files: int = 0
    records: int = 0
    head: str = START
    """Hash of the last record that was verified."""
    last_seq: int = 0
    torn: int = 0
    """Lines that were cut off when the service was killed, each marked by the record after it."""
    unfinished: bool = False
    """Whether the last line is cut off and not marked yet: the service was killed, or is just writing it."""
    fault: Fault | None = None
    heads: dict[str, int] = field(default_factory=dict)
    """Of the hashes that were asked for, those that a verified record has, with its number."""


def verify(log: Path, *, after: str = START, heads: Collection[str] = ()) -> Verdict:
    """Verify a log.

    Args:
        log: Folder of the files.
        after: Hash of the record before the first one, where earlier files were moved elsewhere.
        heads: Hashes to look for.
    """
    verdict, walk = Verdict(log, files=len(list(log.glob("audit-*.jsonl")))), _Walk(after)
    for line in lines(log):
        walk.take(line)
        if walk.fault is not None:
            break
        if line.record:
            verdict.records += 1
            verdict.head, verdict.last_seq = line.hash, line.seq
            if line.hash in heads:
                verdict.heads[line.hash] = line.seq
    else:
        walk.finish()
    verdict.fault, verdict.torn, verdict.unfinished = walk.fault, walk.torn, walk.unfinished
    if verdict.fault is not None and verdict.fault.kind == "removed" and _stands_later(log, verdict.fault.seq):
        fault = verdict.fault
        text = f"record {fault.seq} stands behind record {walk.seen}"
        verdict.fault = Fault("reordered", fault.seq, fault.file, fault.line, text)
    return verdict


class _Walk:
    """Follows the chain from line to line."""

    def __init__(self, after: str) -> None:
        self._seq, self._hash = 0, after
        self._any_start = after != START
        self._loose: list[Line] = []
        """Lines since the last record that are none: cut off, or changed."""
        self.seen = 0
        self.torn = 0
        self.unfinished = False
        self.fault: Fault | None = None

    def take(self, line: Line) -> None:
        """Follow one line."""
        if not line.record:
            self._loose.append(line)
            return
        if self._any_start:
            self._seq, self._any_start = line.seq - 1, False
        follows = line.record["prev"] == self._hash and line.seq == self._seq + 1
        if follows and line.record.get("event") == "torn":
            if not self._is_mark(line):
                self._fail("changed", line.seq, line, "what stands before it is not the cut-off line that it marks")
            self.torn += len(self._loose)
            self._loose = []
        if self._loose:
            self._fail("changed", self._seq + 1, self._loose[0], "its hash is not its own")
        elif not follows:
            self._break(line)
        self._seq, self._hash = line.seq, line.hash

    def finish(self) -> None:
        """Judge what follows the last record."""
        if len(self._loose) == 1 and not self._loose[0].raw.endswith(b"\n"):
            self.unfinished = True
        elif self._loose:
            self._fail("changed", self._seq + 1, self._loose[0], "its hash is not its own")

    def _is_mark(self, line: Line) -> bool:
        cut = b"".join(each.raw for each in self._loose)
        return line.record.get("torn_sha256") == hashlib.sha256(cut).hexdigest()

    def _break(self, line: Line) -> None:
        """Say how a record does not follow the one before it."""
        self.seen = line.seq
        if line.seq > self._seq + 1:
            last = f" to {line.seq - 1}" if line.seq > self._seq + 2 else ""
            text = f"record {line.seq} follows record {self._seq}" if self._seq else f"the log begins at {line.seq}"
            self._fail("removed", self._seq + 1, line, f"{text}: missing {self._seq + 1}{last}")
        elif line.seq <= self._seq:
            self._fail("inserted", line.seq, line, f"record {line.seq} stands behind record {self._seq}")
        elif self._seq:
            text = f"record {line.seq} was chained to another record {self._seq}: one of the two was written anew"
            self._fail("changed", self._seq, line, text)
        else:
            self._fail("changed", line.seq, line, "it does not begin the chain as the first record does")

    def _fail(self, kind: Kind, seq: int, line: Line, text: str) -> None:
        self.fault = Fault(kind, seq, line.file.name, line.number, text)


def _stands_later(log: Path, seq: int) -> bool:
    return any(line.record and line.seq == seq for line in lines(log))
