# SPDX-License-Identifier: Apache-2.0
"""Named places between two writes, at which a process ends as by `kill -9` when its environment asks for it.

Tests stop the service and its workers there (tests/robustness/campaign). `FINETREE_FAIL_POINT=NAME` ends the process
the first time that it gets to the place, `NAME:N` the Nth time. The service does not pass the variable on to workers.
"""

import os
import signal

VARIABLE = "FINETREE_FAIL_POINT"
"""Name of the environment variable."""

POINTS = {
    # The service.
    "start.before_recovery": "the store is open, and nothing of an earlier run is taken over",
    "start.after_adoption": "living workers are taken over, and no job is queued yet",
    "store.before_commit": "a group of writes is made, and not committed",
    "store.after_commit": "a group of writes is durable, and nobody who waits for it is told",
    "log.before_publish": "events are durable, and no watcher is told",
    "upload.before_sync": "bytes of an upload are written, and not on the disk",
    "upload.after_sync": "bytes of an upload are on the disk, and not counted as committed",
    "upload.before_move": "an upload is complete and valid, and not in its place",
    "upload.after_rename": "an upload is in its place, and its folder's entry not on the disk",
    "upload.before_ready": "an upload is in its place, and its dataset not ready",
    "dataset.after_delete": "a dataset is gone from the store, and its file is there",
    "deletion.after_end": "a job that is to be deleted is cancelled, and its rows are there",
    "deletion.after_commit": "a job is gone from the store, and its files are there",
    "deletion.before_note": "a deleted job's files are gone, and its row still says that they may be there",
    "keeping.after_change": "a checkpoint is pinned or given a time, and its request is not in the store",
    "keeping.before_removal": "a checkpoint's removal is noted in its folder, and the checkpoint is there",
    "keeping.after_removal": "a checkpoint is removed, and its request is not in the store",
    "attempt.before_note": "a worker's process runs, and no file names its process id",
    "attempt.before_begin": "a worker is chosen, and its attempt is not in the log",
    "attempt.after_begin": "an attempt is in the log, and its worker has no task",
    "attach.after_token": "an attempt has a new secret, and its worker does not know it",
    "ingest.before_acknowledge": "a worker's events are in the log, and it is not told",
    "ingest.after_outcome": "an outcome is in the log, and its worker is not ended",
    "cancel.after_commit": "a cancel is in the log, and the worker is not told",
    "burial.before_replay": "a worker is proven dead, and what it left in its journal is not in the log",
    "burial.after_replay": "a dead worker's journal is in the log, and its attempt is open",
    "burial.after_close": "a dead worker's attempt is closed, and its slot is not free",
    # Backup and restore.
    "backup.after_piece": "a piece of a file is in the folder of backups, and no manifest names it",
    "backup.before_manifest": "everything of a backup is in the folder, and its manifest is not",
    "restore.before_database": "files are restored, and no database names them",
    "restore.before_end": "everything is restored, and the folder is marked as unfinished",
    # The move of a database.
    "move.before_commit": "all tables are in the database on the server, and not committed",
    "move.after_commit": "all tables are in the database on the server, and the folder has its own alone",
    "move.before_end": "the folder has both its own database and the mark of the one on the server",
    # The worker.
    "journal.before_write": "events are numbered, and not in the journal",
    "journal.before_sync": "events that others act upon are written, and not on the disk",
    "journal.after_sync": "events that others act upon are on the disk, and whoever waits for them is not told",
    "folder.before_manifest": "a folder's files are on the disk, and its manifest is not",
    "folder.before_rename": "a folder has its manifest, and not its name",
    "folder.after_rename": "a folder has its name, and its entry is not on the disk",
    "checkpoint.before_rotation": "a checkpoint is whole, and older ones are not deleted",
    "checkpoint.after_rotation": "older checkpoints are deleted, and the new one is not reported",
    "artifact.before_seal": "an artifact's files are whole, and it has no description",
    "artifact.after_link": "an artifact has its description, and its draft is there too",
    "artifact.after_seal": "an artifact is described, and it is not reported",
    "outcome.after_write": "an outcome is on the worker's disk, and not sent",
}
"""Every place, and what is true there."""


class _Armed:
    """The one place at which this process ends, and how often it passes it before."""

    def __init__(self, text: str) -> None:
        self.name, _, count = text.partition(":")
        if self.name not in POINTS or not (count or "1").isdecimal():
            raise SystemExit(f"{VARIABLE}: {text!r} is none of {', '.join(POINTS)}, nor one of them with :N behind it")
        self.left = int(count or 1)

    def reach(self, name: str) -> None:
        if name != self.name:
            return
        self.left -= 1
        if self.left <= 0:
            os.write(2, f"{VARIABLE}: {name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


_armed: _Armed | None = None


def arm(text: str) -> None:
    """End this process at the place that `text` names, at none where it is empty. Raises SystemExit for others."""
    global _armed  # noqa: PLW0603 - off, it costs one look at a name of this module
    _armed = _Armed(text) if text else None


arm(os.environ.get(VARIABLE, ""))


def fail_point(name: str) -> None:
    """End this process, if it is to end at this place; otherwise do nothing."""
    if _armed is not None:
        _armed.reach(name)
