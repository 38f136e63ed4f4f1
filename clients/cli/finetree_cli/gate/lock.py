# SPDX-License-Identifier: Apache-2.0
"""The lock file: what a repository's answers are computed with, so that a green commit stays green.

`.finetree/lock.json` names formulas, catalog, price book, calibration and rule packs by hash, and what each job took
with them: an upgrade shows its effect on every job.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from finetree_cli.errors import BadInput, NotAvailable
from finetree_cli.gate.document import DocumentError, from_json, to_json
from finetree_cli.gate.report import Component, Figures, PlanEntry, Revisions
from finetree_cli.gate.repository import FOLDER, PLACES, find_upwards

DEFAULT_FILE = f"{FOLDER}/lock.json"
"""Lock file of a repository, from its root."""
LOCK_VERSION = 1
"""Changes only when a reader of the former version would misread the file."""
MAX_FILE_BYTES = 16 << 20
"""Largest lock file in bytes; a job has about 1 kB."""
_REMEDY = "`finetree lock` writes one"
COMPONENTS = ("engine", "catalog", "price_book", "calibration")


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedJob:
    """A job file and what it took when the lock was written."""

    file: str
    file_sha256: str
    figures: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """The document."""

    lock_version: int = LOCK_VERSION
    engine: Component | None
    catalog: Component | None
    price_book: Component | None
    calibration: Component | None
    packs: tuple[Component, ...]
    """Rule packs of the recommender; empty where it was not asked."""
    jobs: tuple[LockedJob, ...]

    def to_text(self) -> str:
        """Format as the text of the lock file."""
        return json.dumps(to_json(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A component that is not the locked one; None: there is none on that side."""

    name: str
    """"price_book", or "pack evidence-1"."""
    before: Component | None
    after: Component | None

    def __str__(self) -> str:
        before, after = _name(self.before), _name(self.after)
        if self.before is not None and self.after is not None and before == after:
            before, after = f"{before} ({self.before.sha256[:12]})", f"{after} ({self.after.sha256[:12]})"
        return f"{self.name} {before} → {after}"


def make_lock(revisions: Revisions, packs: Iterable[Component], plans: Iterable[PlanEntry]) -> Lock:
    """Make the lock of the present revisions and jobs."""
    return Lock(
        engine=revisions.engine,
        catalog=revisions.catalog,
        price_book=revisions.price_book,
        calibration=revisions.calibration,
        packs=tuple(sorted(packs, key=lambda pack: pack.id)),
        jobs=tuple(LockedJob(file=entry.file, file_sha256=entry.file_sha256, figures=entry.figures) for entry in plans),
    )


def find_lock_file(folder: Path | None = None) -> str | None:
    """Return the nearest `DEFAULT_FILE`, as `find_upwards` does."""
    return find_upwards(DEFAULT_FILE, folder=folder)


def place_of_lock() -> str:
    """Return the name of the nearest lock file; where there is none, of the one to write.

    That one is in the nearest folder `.finetree`, as of a policy, else in one of the current folder.
    """
    return find_lock_file() or f"{find_upwards(FOLDER) or FOLDER}/lock.json"


def root_of(file: str) -> Path:
    """Return the folder that a lock's job files are named from: the one around .finetree, else the current folder."""
    folder = Path(file).parent
    return folder.parent if folder.name == FOLDER else Path()


def require_lock_file(name: str | None) -> str:
    """Return the name of the lock file: that which is given, or the nearest. Raises BadInput where there is none."""
    file = name or find_lock_file()
    if file is None:
        raise BadInput(f"no {DEFAULT_FILE} in {PLACES}", remedy=_REMEDY, reason="LOCK_FILE_UNREADABLE")
    return file


def read_lock(path: Path) -> Lock:
    """Read a lock file.

    Raises:
        BadInput: It does not exist or is no lock file; the message names the place in it.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
        document = json.loads(raw)
        version = document.get("lock_version") if isinstance(document, dict) else None
        if isinstance(version, int) and version != LOCK_VERSION:
            raise DocumentError("lock_version", f"is {version}, and this finetree reads {LOCK_VERSION}")
        return from_json(Lock, document)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}", remedy=_REMEDY, reason="LOCK_FILE_UNREADABLE") from error
    except (ValueError, RecursionError) as error:
        remedy = "`finetree lock --upgrade` writes a new one"
        raise BadInput(f"{path}: no lock file: {error}", remedy=remedy, reason="LOCK_FILE_INVALID") from error


def drifts(lock: Lock, revisions: Revisions, packs: Iterable[Component] | None = None) -> list[Drift]:
    """Return what differs from the lock; without `packs`, the rule packs are not compared."""
    found = [
        Drift(name=name, before=before, after=after)
        for name in COMPONENTS
        if _differs(before := getattr(lock, name), after := getattr(revisions, name))
    ]
    if packs is not None:
        found += pack_drifts(lock, replace(lock, packs=tuple(packs)))
    return found


def pack_drifts(before: Lock, after: Lock) -> list[Drift]:
    """Return the rule packs that are locked otherwise in a later lock."""
    locked, present = ({each.id: each for each in lock.packs} for lock in (before, after))
    return [
        Drift(name=f"pack {name}", before=locked.get(name), after=present.get(name))
        for name in sorted(locked.keys() | present.keys())
        if _differs(locked.get(name), present.get(name))
    ]


def require_locked(lock: Lock, file: str, revisions: Revisions, packs: Iterable[Component] | None = None) -> None:
    """Raise NotAvailable LOCK_DRIFT, which names what differs, unless the revisions are the locked ones."""
    found = drifts(lock, revisions, packs)
    if found:
        raise NotAvailable(
            f"not as {file} locks it: {'; '.join(map(str, found))}",
            remedy="install the locked version, or accept the new one with `finetree lock --upgrade`",
            reason="LOCK_DRIFT",
        )


def _differs(before: Component | None, after: Component | None) -> bool:
    """Compare by hash: the same content under another name, or of another day, gives the same answers."""
    if before is None or after is None:
        return before is not after
    return before.sha256 != after.sha256 or (not before.sha256 and before.id != after.id)


def _name(component: Component | None) -> str:
    return component.id if component is not None else "none"
