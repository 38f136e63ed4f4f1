# SPDX-License-Identifier: Apache-2.0
"""Packs in use: the built-in ones, and those of a folder, which is read again when one of its files changes.

A broken file stops the start. Under a running service it stops nothing: the rules that were read before stay in use,
and the problem stands in the log and beside the pack.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetree_runtime.server.logging import get_logger

from finetree_recommender.rule_pack.pack import Pack, builtin_packs, parse
from finetree_recommender.rule_pack.yaml import PackError

SECONDS_BETWEEN_LOOKS = 2.0
"""Shortest time between two checks of the folder's files."""

_Stamps = dict[str, tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class Entry:
    """A pack, or a file that could not be read as one."""

    id: str
    """Id of the pack; the file's name where it could not be read."""
    pack: Pack | None
    built_in: bool
    problem: str = ""
    """Fault of the present file."""


class Library(Mapping[str, Pack]):
    """Packs in use, by id.

    Args:
        folder: own packs, `*.yaml`; None means none.
        clock: seconds that only grow.

    Raises:
        PackError: A file of the folder is no usable pack; the message names file and rule.
    """

    def __init__(self, folder: Path | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._builtin = builtin_packs()
        self._folder = folder
        self._clock = clock
        self._looked = clock()
        self._own: dict[str, Pack] = {}
        self._packs = self._builtin
        self._problems: dict[str, str] = {}
        self._stamps: _Stamps = {}
        if folder is not None:
            self._stamps = _stamps(folder)
            self._take({})
            for name, problem in self._problems.items():
                raise PackError(f"{name}: {problem}; mend it or take it out of the folder")

    def __getitem__(self, pack_id: str) -> Pack:
        self.refresh()
        return self._packs[pack_id]

    def __iter__(self) -> Iterator[str]:
        self.refresh()
        return iter(self._packs)

    def __len__(self) -> int:
        return len(self._packs)

    def entries(self) -> tuple[Entry, ...]:
        """List all packs with their faults, built-in ones first."""
        self.refresh()
        shipped = [Entry(name, pack, built_in=True) for name, pack in self._builtin.items()]
        names = sorted({*self._own, *self._problems})
        own = [self._entry(name) for name in names]
        return (*shipped, *own)

    def refresh(self) -> None:
        """Read the folder again if the last check is long enough ago and a file has changed."""
        if self._folder is None or self._clock() - self._looked < SECONDS_BETWEEN_LOOKS:
            return
        self._looked = self._clock()
        try:
            stamps = _stamps(self._folder)
        except OSError as error:
            get_logger().error("rule_pack_folder_unreadable", problem=error.strerror)
            return
        if stamps == self._stamps:
            return
        self._stamps = stamps
        self._take(self._own)
        for name, problem in self._problems.items():
            get_logger().error("rule_pack_reload_failed", file=name, problem=problem)

    def _take(self, before: Mapping[str, Pack]) -> None:
        """Read the folder; `before` are the packs of the last reading."""
        self._own, self._problems = self._read(before)
        self._packs = {**self._builtin, **{pack.rules.id: pack for pack in self._own.values()}}

    def _entry(self, name: str) -> Entry:
        pack = self._own.get(name)
        return Entry(pack.rules.id if pack else name, pack, built_in=False, problem=self._problems.get(name, ""))

    def _read(self, before: Mapping[str, Pack]) -> tuple[dict[str, Pack], dict[str, str]]:
        """Read packs and faults by file; a file with a fault keeps the pack of the last reading."""
        found: dict[str, Pack] = {}
        problems: dict[str, str] = {}
        waiting = sorted(self._stamps)
        while waiting:
            # A pack may extend that of another file, so repeat until no more can be read.
            left = [name for name in waiting if not self._try(name, found, problems)]
            if len(left) == len(waiting):
                break
            waiting = left
        taken = {pack.rules.id for pack in found.values()}
        kept = {name: before[name] for name in problems if name in before and before[name].rules.id not in taken}
        return found | kept, problems

    def _try(self, name: str, found: dict[str, Pack], problems: dict[str, str]) -> bool:
        bases = {**self._builtin, **{pack.rules.id: pack for pack in found.values()}}
        try:
            found[name] = _load(self._folder / name if self._folder else Path(name), bases)
        except (PackError, OSError) as error:
            problems[name] = (error.strerror or "unreadable") if isinstance(error, OSError) else str(error)
            return False
        problems.pop(name, None)
        return True


def _load(file: Path, bases: Mapping[str, Pack]) -> Pack:
    pack = parse(file.read_bytes(), bases)
    if pack.rules.id in bases:
        raise PackError(f"id: another pack is called {pack.rules.id!r}; take another name")
    return pack


def _stamps(folder: Path) -> _Stamps:
    """State of each file that shows a change, by file name."""
    files = (item for item in folder.iterdir() if item.suffix in (".yaml", ".yml") and item.is_file())
    stats = ((item.name, item.stat()) for item in files)
    return {name: (stat.st_mtime_ns, stat.st_size, stat.st_ino) for name, stat in stats}
