# SPDX-License-Identifier: Apache-2.0
"""Where each thing lies in the trainer's data folder."""

import fcntl
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from finetree_runtime.config.settings import SettingsError

from finetree_trainer.worker_user import WorkerUser, passage

MAX_SOCKET_PATH_BYTES = 100
"""Longest path of a Unix socket that is used; `sun_path` holds 107 bytes, which a deep data folder exceeds."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths in the data folder; whoever writes into a folder makes it.

    trainer.db                              the database
    database.json                           there where the database is on a server, in place of trainer.db: its mark
    moving.json                             there while the database is moved to a server: the mark to be
    service.lock                            held by the service that uses the folder
    restoring.json                          there while a backup is restored into the folder: no service may use it
    installation                            the name of this trainer among those of a cluster: proof of a mounted folder
    run/worker.sock                         where workers attach
    leader/leader.json                      which of several replicas has the workers of a cluster, and where it is
    datasets/{sha256}.jsonl                 files of complete datasets, once for each content
    uploads/{dataset}.part                  uploads that are not complete
    models/                                 base models
    tokens/                                 tokenized rows that jobs share
    transfers/                              what is on its way from the object store or to it
    workers/{worker}                        a worker process: its lock, process id and output
    jobs/{job}/checkpoints                  shared by the attempts: each goes on from the newest complete one
    jobs/{job}/attempts/{attempt}           an attempt's journal, job.log for clients, worker.log for operators
    jobs/{job}/attempts/{attempt}/artifacts/{artifact}
    """

    root: Path
    user: WorkerUser | None = None
    """Who workers run as; None: as the service's own user."""

    @property
    def database(self) -> Path:
        """The database file."""
        return self.root / "trainer.db"

    @property
    def database_mark(self) -> Path:
        """The file that ties the folder to a database on a server."""
        return self.root / "database.json"

    @property
    def moving(self) -> Path:
        """The file that becomes `database_mark` when the move of the database to a server is complete."""
        return self.root / "moving.json"

    @property
    def service_lock(self) -> Path:
        """The file that the service which uses the folder holds locked."""
        return self.root / "service.lock"

    @property
    def installation(self) -> Path:
        """The file with this installation's name, by which nodes of a cluster know the folder."""
        return self.root / "installation"

    @property
    def restoring(self) -> Path:
        """The file that is there while a backup is restored into the folder, and left by a restore that was killed."""
        return self.root / "restoring.json"

    @property
    def datasets(self) -> Path:
        """The folder of complete datasets."""
        return self.root / "datasets"

    @property
    def uploads(self) -> Path:
        """The folder of uploads that are not complete."""
        return self.root / "uploads"

    @property
    def models(self) -> Path:
        """The folder of base models."""
        return self.root / "models"

    @property
    def tokens(self) -> Path:
        """The folder of tokenized rows that jobs share."""
        return self.root / "tokens"

    @property
    def transfers(self) -> Path:
        """The folder of what is on its way from the object store or to it, emptied at a start."""
        return self.root / "transfers"

    @property
    def workers(self) -> Path:
        """The folder of the workers' own folders."""
        return self.root / "workers"

    @property
    def worker_socket(self) -> Path:
        """The socket where workers attach: the same path after a restart, alone in its folder."""
        path = self.root.resolve() / "run" / "worker.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
            return path
        digest = hashlib.sha256(os.fsencode(self.root.resolve())).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"finetree-{os.getuid()}-{digest}" / "worker.sock"

    @property
    def leader(self) -> Path:
        """The file that tells workers on a cluster which replica leads: alone in its folder, which they may read."""
        return self.root / "leader" / "leader.json"

    def dataset_file(self, sha256: str) -> Path:
        """The file of a complete dataset's content."""
        return self.datasets / f"{sha256}.jsonl"

    def upload_file(self, uid: str) -> Path:
        """The file of a dataset's upload that is not complete."""
        return self.uploads / f"{uid}.part"

    @property
    def jobs(self) -> Path:
        """The folder of the jobs' own folders."""
        return self.root / "jobs"

    def job(self, job: str) -> Path:
        """The folder of everything that a job has on the disk."""
        return self.jobs / job

    def checkpoints(self, job: str) -> Path:
        """The folder of a job's checkpoints."""
        return self.job(job) / "checkpoints"

    def attempt(self, job: str, attempt: int) -> Path:
        """The folder of one attempt of a job."""
        return self.job(job) / "attempts" / str(attempt)

    def artifacts(self, job: str, attempt: int) -> Path:
        """The folder of what an attempt makes: its own, so that an attempt which lives on changes no other's."""
        return self.attempt(job, attempt) / "artifacts"


def trainer_folder(data_dir: Path) -> Path:
    """The trainer's own folder in the data folder of `finetree up`, or the folder itself where it is a trainer's."""
    own = data_dir / "trainer"
    return data_dir if (data_dir / "trainer.db").is_file() or not own.is_dir() else own


def claim(layout: Layout, *, shared: bool) -> int:
    """Lock the data folder, with other replicas if it is `shared`, and return the lock, which lasts until it is closed.

    Two trainers in it would give one job to two workers. Raises SettingsError DATA_DIR_IN_USE, DATA_DIR_UNUSABLE,
    DATA_DIR_UNFINISHED.
    """
    lock = -1
    try:
        passage(layout.root.resolve(), layout.user)
        lock = os.open(layout.service_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if lock >= 0:
            os.close(lock)
        if isinstance(error, BlockingIOError):
            text = "data_dir: another trainer uses this folder; stop it first"
            raise SettingsError("DATA_DIR_IN_USE", text) from None
        raise SettingsError("DATA_DIR_UNUSABLE", f"data_dir: it cannot be used: {error.strerror}") from None
    if layout.restoring.exists():
        os.close(lock)
        text = "data_dir: a restore into this folder was cut off; run `finetree backup restore` into it again"
        raise SettingsError("DATA_DIR_UNFINISHED", text)
    return lock
