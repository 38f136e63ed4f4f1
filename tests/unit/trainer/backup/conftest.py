# SPDX-License-Identifier: Apache-2.0
"""The data folder of a trainer with a dataset, an upload, a job that has ended and one whose worker trained."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest
from finetree_trainer.backup.create import Sources
from finetree_trainer.backup.repository import Repository
from finetree_trainer.layout import Layout
from finetree_trainer.store import schema
from finetree_trainer.store.database import Store
from sqlalchemy import BigInteger, Integer, String, Table, insert

ROWS = b'{"prompt": "a", "completion": "b"}\n' * 100


def zeros(table: Table, **values: object) -> dict[str, object]:
    """A row with nothing in it but `values`."""
    kinds = {String: "", Integer: 0, BigInteger: 0}
    empty = {column.name: kinds.get(type(column.type), b"") for column in table.columns}
    return empty | values


@dataclass
class Data:
    """A trainer's folder and the one that keeps its backups."""

    root: Path
    backups: Path

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    @property
    def sources(self) -> Sources:
        return Sources.of(self.root)

    @property
    def repository(self) -> Repository:
        return Repository.made(self.backups)

    def write(self, path: str, content: bytes = b"x") -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return file

    def insert(self, *rows: tuple[Table, dict[str, object]]) -> None:
        store = Store(self.layout.database)
        try:
            for table, values in rows:
                store.submit(lambda c, t=table, v=values: c.execute(insert(t), zeros(t, **v))).result()
        finally:
            store.close()


@pytest.fixture
def data(tmp_path: Path) -> Data:
    made = Data(tmp_path / "data", tmp_path / "backups")
    made.root.mkdir()
    sha256 = hashlib.sha256(ROWS).hexdigest()
    block = {"first_seq": 1, "last_seq": 3, "payload": b"events"}
    made.insert(
        (schema.datasets, {"uid": "d1", "project": "p", "sha256": sha256, "ready": 1}),
        (schema.datasets, {"uid": "d2", "project": "p", "sha256": "0" * 64, "committed_bytes": 4}),
        (schema.jobs, {"uid": "ended", "project": "p", "attempt": 1, "last_seq": 3, "oldest_seq": 1, "end_time": 9}),
        (schema.jobs, {"uid": "runs", "project": "p", "attempt": 1, "last_seq": 3, "oldest_seq": 1}),
        (schema.event_blocks, {"job_uid": "ended", **block}),
        (schema.event_blocks, {"job_uid": "runs", **block}),
        (schema.attempts, {"job_uid": "ended", "attempt": 1, "worker": "w0", "ended": 9, "token_hash": "old"}),
        (schema.attempts, {"job_uid": "runs", "attempt": 1, "worker": "w1", "token_hash": "old", "pid": 7}),
        (schema.artifacts, {"job_uid": "ended", "attempt": 1, "artifact": "adapter"}),
    )
    made.write(f"datasets/{sha256}.jsonl", ROWS)
    made.write("uploads/d2.part", b"1234 and more, not committed")
    made.write("models/hub/acme/c1/config.json", b"{}")
    made.write("models/hub/acme/.c2.partial/config.json", b"{")
    made.write("jobs/ended/attempts/1/artifacts/adapter/weights.bin", b"adapter")
    made.write("jobs/runs/checkpoints/step-00000002/manifest.json", b"{}")
    made.write("jobs/runs/checkpoints/.step-4.1.tmp/weights.bin", b"half")
    made.write("jobs/runs/attempts/1/journal.bin", b"journal")
    made.write("jobs/runs/attempts/1/job.log", b"log")
    made.write("jobs/nobodys/attempts/1/job.log", b"log")
    made.write("tokens/cache/rows.bin", b"cache")
    made.write("workers/w1/output.log", b"output")
    return made
