# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a trainer's folder, found by reading alone, whether a trainer uses it or not."""

import fcntl
import os
import sqlite3
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetree_trainer.backup.contents import contents_of
from finetree_trainer.backup.database_copy import torn_logs, view_in
from finetree_trainer.disk import folder_bytes
from finetree_trainer.jobs.stored.database import located
from finetree_trainer.layout import Layout
from finetree_trainer.store.backends.examine import examine
from finetree_trainer.store.migrations import MIGRATIONS

SHOWN = 5
"""Most names of a kind that are listed."""
_ENDED = "SELECT uid FROM jobs WHERE end_time > 0"
_NEWEST = "SELECT COALESCE(MAX(update_time), 0) FROM jobs"


def condition_of(folder: Path) -> dict[str, Any]:
    """Check the database of a folder and what it names.

    Returns:
        database: "ok", or what SQLite found first.
        schema_version, known_schema_version: of the tables, and of this program.
        torn: jobs whose log has a gap. missing: paths that the database names and the disk has not.
        drafts, draft_bytes: what killed workers of ended jobs have left half written.
        update_time: when anything of a job last changed, ISO 8601; "" without jobs.
        unfinished_restore, in_use: whether a restore was cut off, whether a service uses the folder.

    Of a database on a server: `on_server` and `server`, its version, in place of what is about files.

    Raises SettingsError DATABASE_… where that cannot be reached, DATA_DIR_EMPTY where there is no database,
    DATA_DIR_TOO_NEW.
    """
    layout = Layout(folder)
    if layout.database_mark.exists():
        known = {"known_schema_version": len(MIGRATIONS), "in_use": _in_use(layout), "unfinished_restore": False}
        return known | examine(layout, os.environ) | {"database": "ok", "on_server": True}
    found: dict[str, Any] = {
        "known_schema_version": len(MIGRATIONS),
        "unfinished_restore": layout.restoring.exists(),
        "in_use": _in_use(layout),
    }
    with located(layout.database) as address:
        try:
            with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
                connection.execute("BEGIN")
                found["database"] = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
                view = view_in(connection, datetime.now(UTC))
                ended = [uid for (uid,) in connection.execute(_ENDED)]
                newest = int(connection.execute(_NEWEST).fetchone()[0])
                found |= {"schema_version": view.schema_version, "torn": torn_logs(connection)}
        except sqlite3.DatabaseError as error:
            return found | {"database": str(error)}
    missing = contents_of(layout, view, with_models=False).missing
    drafts = [draft for uid in ended for draft in _drafts(layout, uid)]
    return found | {
        "missing": missing[:SHOWN],
        "missing_count": len(missing),
        "drafts": len(drafts),
        "draft_bytes": sum(folder_bytes(draft) for draft in drafts),
        "update_time": datetime.fromtimestamp(newest / 1e6, UTC).isoformat() if newest else "",
        "jobs": len(view.jobs),
        "live_jobs": len(view.live),
    }


def _drafts(layout: Layout, uid: str) -> list[Path]:
    places = [layout.checkpoints(uid), *(layout.job(uid) / "attempts").glob("*/artifacts")]
    return [draft for place in places for draft in place.glob(".*")]


def _in_use(layout: Layout) -> bool:
    with suppress(OSError):
        lock = os.open(layout.service_lock, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
    return False
