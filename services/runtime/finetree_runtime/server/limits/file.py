# SPDX-License-Identifier: Apache-2.0
"""The limits file, read as strictly as settings are, and read again when it changes.

[default.principal]
requests_per_second = 50

[projects.search]
running_jobs = 4
monthly_cost = "500 USD"
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from finetree_runtime.config.settings import SettingsError, Size
from finetree_runtime.config.toml_table import TomlTable
from finetree_runtime.server.limits.table import (
    OF_PROJECTS,
    PREEMPTIBLE,
    PRINCIPALS,
    PROJECTS,
    UNPRICED,
    WEIGHT,
    WORDS,
    Budget,
    LimitTable,
)
from finetree_runtime.server.logging import get_logger

LOOK_SECONDS = 1.0
"""Time between two looks whether the file has changed."""
_KINDS = {"project": PROJECTS, "principal": PRINCIPALS}
_BYTES = ("upload_bytes_per_day", "dataset_bytes")
_FRACTIONS, _POSITIVE = ("requests_per_second", WEIGHT), ("requests_per_second", "burst", WEIGHT)
_MONEY = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ([A-Z]{3})")


class LimitsFile:
    """The limits in force: those of the file, behind them the settings of the service."""

    def __init__(self, file: Path | None, usual: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        """Read the file. `usual` has the defaults by kind of subject that the file's own go before.

        Raises SettingsError SETTING_INVALID, which names the key.
        """
        self._file, self._usual = file, usual or {}
        self._looked, self._seen = time.monotonic(), self._stat()
        self._table = self._read()

    @property
    def table(self) -> LimitTable:
        """The limits now. A file that has become wrong changes nothing: the log says what is wrong with it."""
        now = time.monotonic()
        if self._file is not None and now - self._looked >= LOOK_SECONDS:
            self._looked, seen = now, self._stat()
            if seen != self._seen:
                self._seen = seen
                self._read_again()
        return self._table

    def _read_again(self) -> None:
        try:
            self._table = self._read()
        except SettingsError as error:
            get_logger().error("limits_file_refused", error=str(error))
        else:
            get_logger().info("limits_file_read")

    def _stat(self) -> tuple[int, int, int]:
        try:
            found = self._file.stat() if self._file is not None else None
        except OSError:
            found = None
        return (found.st_ino, found.st_size, found.st_mtime_ns) if found is not None else (0, 0, 0)

    def _read(self) -> LimitTable:
        if self._file is None:
            return LimitTable(self._usual)
        return parse(TomlTable.read("limits_file", self._file), self._usual)


def parse(content: TomlTable, usual: Mapping[str, Mapping[str, Any]]) -> LimitTable:
    """Build the limits of a file's content. Raises SettingsError SETTING_INVALID, which names the key."""
    content.require_known("default", PROJECTS, PRINCIPALS)
    given = content.table("default")
    given.require_known(*_KINDS)
    defaults = {kind: dict(limits) for kind, limits in usual.items()}
    for name, kind in _KINDS.items():
        defaults[kind] = defaults.get(kind, {}) | _limits(given.table(name), kind)
    own = {
        f"{kind}/{name}": _limits(table, kind)
        for kind in (PROJECTS, PRINCIPALS)
        for name, table in content.table(kind).tables()
    }
    return LimitTable(defaults, own)


def _limits(stated: TomlTable, kind: str) -> dict[str, Any]:
    stated.require_known(*WORDS, *(OF_PROJECTS if kind == PROJECTS else ()))
    return {name: _value(stated, name) for name in stated.values}


def _value(stated: TomlTable, name: str) -> Any:
    raw = stated.values[name]
    if name == "monthly_cost":
        found = _MONEY.fullmatch(raw) if isinstance(raw, str) else None
        if found is None:
            raise stated.invalid(name, f'{raw!r} is not an amount such as "500 USD"')
        return Budget(Decimal(found[1]), found[2])
    if name == UNPRICED:
        if raw not in ("refuse", "allow"):
            raise stated.invalid(name, f"{raw!r} is neither refuse nor allow")
        return raw
    if name == PREEMPTIBLE:
        if not isinstance(raw, bool):
            raise stated.invalid(name, f"{raw!r} is neither true nor false")
        return raw
    value = stated.value(name, Size if name in _BYTES else float if name in _FRACTIONS else int, None)
    if not math.isfinite(value):
        raise stated.invalid(name, f"{raw!r} is not a finite number")
    if value < 0 or (name in _POSITIVE and value <= 0):
        raise stated.invalid(name, f"{raw!r} is too small")
    return value
