# SPDX-License-Identifier: Apache-2.0
"""Tables as they are after the last migration, for queries; `migrations.py` is what makes them.

Every row that belongs to someone carries `project`, `owner` and `shard` (hash of the uid over `SHARDS` virtual shards),
so that a database can be split or a project be listed without a rewrite. Times are integers, microseconds since 1970.
"""

import zlib

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table, UniqueConstraint

from finetree_trainer.store.sealed import Sealed

SHARDS = 1024
"""Virtual shards. More than any number of hosts to come, and fixed for ever: a job's shard never changes."""

metadata = MetaData()

meta = Table("meta", metadata, Column("key", String, primary_key=True), Column("value", String, nullable=False))
"""`schema_version`, `log_epoch`, and the measured rates of this host."""

jobs = Table(
    "jobs",
    metadata,
    Column("uid", String, primary_key=True),
    Column("shard", Integer, nullable=False),
    Column("project", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("task", Integer, nullable=False),
    Column("state", Integer, nullable=False),
    Column("suspended", Integer, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("oldest_seq", BigInteger, nullable=False),
    Column("attempt_started", BigInteger, nullable=False),
    Column("cancel_requested", BigInteger, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("update_time", BigInteger, nullable=False),
    Column("end_time", BigInteger, nullable=False),
    Column("dataset_uid", String, nullable=False),
    Column("evaluation_uid", String, nullable=False),
    Column("snapshot", Sealed, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("place", String, nullable=False),
    Index("jobs_by_project", "project", "uid"),
    Index("jobs_by_state", "state", "uid"),
)
"""The part of a job that changes with every batch of events, hence small; `snapshot` is this part of the message.
`priority` and `place` order the queue (scheduling/order/place.py)."""

job_records = Table(
    "job_records",
    metadata,
    Column("uid", String, primary_key=True),
    Column("record", Sealed, nullable=False),
)
"""The Job as created (task, sources, estimate, recommendation): up to 100 KB that are written again only where a client
changes its labels or names."""

job_labels = Table(
    "job_labels",
    metadata,
    Column("job_uid", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
    Index("job_labels_by_value", "key", "value", "job_uid"),
)

event_blocks = Table(
    "event_blocks",
    metadata,
    Column("job_uid", String, primary_key=True),
    Column("first_seq", BigInteger, primary_key=True),
    Column("last_seq", BigInteger, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("kinds", BigInteger, nullable=False),
    Column("time_first", BigInteger, nullable=False),
    Column("time_last", BigInteger, nullable=False),
    Column("crc", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
)
"""Events first_seq … last_seq, length-delimited; `kinds` has the bit 1 << kind of every event in the block."""

attempts = Table(
    "attempts",
    metadata,
    Column("job_uid", String, primary_key=True),
    Column("attempt", BigInteger, primary_key=True),
    Column("shard", Integer, nullable=False),
    Column("token_hash", String, nullable=False),
    Column("worker", String, nullable=False),
    Column("worker_token_hash", String, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("slots", String, nullable=False),
    Column("acknowledged", BigInteger, nullable=False),
    Column("last_heartbeat", BigInteger, nullable=False),
    Column("started", BigInteger, nullable=False),
    Column("ended", BigInteger, nullable=False),
    Column("cause", String, nullable=False),
    Index("attempts_open", "ended", "job_uid"),
)
"""One row for each start of a worker on a job. `slots` are the ids of the slots that it holds, separated by commas;
`ended` stays 0 until the process is proven dead."""

artifacts = Table(
    "artifacts",
    metadata,
    Column("job_uid", String, primary_key=True),
    Column("artifact", String, primary_key=True),
    Column("shard", Integer, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("record", Sealed, nullable=False),
)

datasets = Table(
    "datasets",
    metadata,
    Column("uid", String, primary_key=True),
    Column("shard", Integer, nullable=False),
    Column("project", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("sha256", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("committed_bytes", BigInteger, nullable=False),
    Column("ready", Integer, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("update_time", BigInteger, nullable=False),
    Column("record", Sealed, nullable=False),
    UniqueConstraint("project", "sha256", name="datasets_by_content"),
    Index("datasets_by_project", "project", "uid"),
    Index("datasets_by_hash", "sha256"),
)

request_ids = Table(
    "request_ids",
    metadata,
    Column("project", String, primary_key=True),
    Column("request_id", String, primary_key=True),
    Column("method", String, nullable=False),
    Column("body_hash", String, nullable=False),
    Column("resource", String, nullable=False),
    Column("reply", Sealed, nullable=False),
    Column("create_time", BigInteger, nullable=False),
)
"""Kept for ever: one request id makes one thing. `reply` is empty where it can be built from the resource."""

observation_reports = Table(
    "observation_reports",
    metadata,
    Column("job_uid", String, primary_key=True),
    Column("shard", Integer, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("tries", BigInteger, nullable=False),
    Column("due", BigInteger, nullable=False),
    Index("observation_reports_by_due", "due", "job_uid"),
)
"""Finished runs whose measurements are not reported to the estimator yet; a row is removed when they are."""


sweeps = Table(
    "sweeps",
    metadata,
    Column("uid", String, primary_key=True),
    Column("shard", Integer, nullable=False),
    Column("project", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("state", Integer, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("record", Sealed, nullable=False),
    Index("sweeps_by_project", "project", "uid"),
    Index("sweeps_by_state", "state", "uid"),
)
"""`record` is the Sweep message, written whole at each change: its trials are 256 at most."""

removed_jobs = Table(
    "removed_jobs",
    metadata,
    Column("uid", String, primary_key=True),
    Column("shard", Integer, nullable=False),
    Column("project", String, nullable=False),
    Column("cause", String, nullable=False),
    Column("remove_time", BigInteger, nullable=False),
    Column("freed_bytes", BigInteger, nullable=False),
    Column("files_left", Integer, nullable=False),
    Index("removed_jobs_by_files", "files_left", "uid"),
)
"""Jobs that were deleted, on request or by retention: nothing else is left of them. `files_left` is 1 until their
folder is gone, which a kill may put off to the next start."""

job_costs = Table(
    "job_costs",
    metadata,
    Column("job_uid", String, primary_key=True),
    Column("shard", Integer, nullable=False),
    Column("project", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("month", String, nullable=False),
    Column("currency", String, nullable=False),
    Column("hourly", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False),
    Column("spent", BigInteger, nullable=False),
    Column("ended", Integer, nullable=False),
    Index("job_costs_by_project", "project", "month"),
    Index("job_costs_by_owner", "owner", "month"),
)
"""What each job costs, in millionths of its currency: a row outlives its job, so that a deleted one still counts in the
month ("2026-11", UTC) in which it was created. `currency` is empty where the price is not known."""

uploaded_bytes = Table(
    "uploaded_bytes",
    metadata,
    Column("project", String, primary_key=True),
    Column("owner", String, primary_key=True),
    Column("day", String, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
)
"""Bytes that arrived on a day ("2026-11-28", UTC), also of uploads that were never finished."""


def shard_of(uid: str) -> int:
    """Virtual shard of a uid: CRC-32 (the same on every platform and in every language), modulo `SHARDS`."""
    return zlib.crc32(uid.encode()) % SHARDS
