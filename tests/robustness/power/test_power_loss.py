# SPDX-License-Identifier: Apache-2.0
"""A power cut at any moment: what was acknowledged is there, and what is there is whole."""

import collections
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from finetree_api.worker.v1 import worker_pb2
from finetree_data.exchange import journal
from finetree_trainer.datasets.uploads import UploadFile
from finetree_trainer.layout import Layout
from finetree_trainer.store import datasets, events, jobs, request_ids
from finetree_trainer.store.database import Store
from finetree_worker import atomic_files
from power.crash_states import MARKS, read, states

HERE = Path(__file__).parent
SEED = int(os.environ.get("FINETREE_SEED", "1")) or random.randrange(1, 10**6)
SERVICE_STATES = int(os.environ.get("FINETREE_CRASH_STATES", "250"))
WORKER_STATES = 3 * SERVICE_STATES


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    """The recorder, compiled."""
    if shutil.which("cc") is None:
        pytest.skip("writes are recorded by a shared library, which needs a C compiler (cc)")
    library = tmp_path_factory.mktemp("recorder") / "disk_recorder.so"
    source = str(HERE / "disk_recorder.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-w", "-o", str(library), source, "-ldl", "-lpthread"], check=True)
    return library


@pytest.fixture
def record(recorder, tmp_path):
    """Run a workload and return its operations."""

    def run(workload: str) -> list:
        root, log = tmp_path / "recorded" / "data", tmp_path / "operations"
        root.mkdir(parents=True)
        environment = os.environ | {"LD_PRELOAD": str(recorder), "DISK_ROOT": str(root), "DISK_LOG": str(log)}
        command = [sys.executable, str(HERE / "power_workloads.py"), workload, str(root)]
        subprocess.run(command, env=environment, check=True, timeout=100)
        operations = read(log, root)
        kinds = collections.Counter(operation.kind for operation in operations)
        assert kinds["w"] > 20, kinds
        assert kinds["f"] > 20, kinds
        return operations

    return run


def crashed(operations, count, tmp_path):
    """Folders after power cuts, each with what had been acknowledged by then."""
    shuffle = random.Random(SEED)
    print(f"FINETREE_SEED={SEED}, {len(operations)} operations, {count} crash states")
    for point, disk in states(operations, count, shuffle):
        folder = tmp_path / "after"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        disk.crash(folder, shuffle)
        yield f"after {point} of {len(operations)}", folder, [json.loads(line) for line in disk.marks]


@pytest.mark.timeout(600)
def test_the_service_loses_nothing_that_it_has_acknowledged(record, tmp_path):
    operations = record("service")
    told = collections.Counter()
    for when, folder, marks in crashed(operations, SERVICE_STATES, tmp_path):
        if not marks:
            continue  # nothing was promised: whatever is there may be begun anew
        told.update(mark["kind"] for mark in marks)
        layout = Layout(folder)
        assert layout.database.is_file(), when
        store = Store(layout.database)
        try:
            deleted = {mark["uid"] for mark in marks if mark["kind"] == "deleting"}
            for mark in marks:
                if mark["kind"] in CHECKS:
                    CHECKS[mark["kind"]](store, layout, mark, deleted)
            check_events(store, [mark for mark in marks if mark["kind"] == "event"])
            assert store.read_now(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar()) == "ok", when
        except AssertionError as error:
            raise AssertionError(f"{when} (FINETREE_SEED={SEED}): {error}") from error
        finally:
            store.close()
    assert set(told) == {*CHECKS, "event", "deleting"}


def check_dataset(store, layout, mark, deleted):
    found = store.read_now(lambda c: datasets.load(c, mark["uid"]))
    assert found is not None or mark["uid"] in deleted, f"dataset {mark['uid']} is gone"


def check_upload(store, layout, mark, deleted):
    row = store.read_now(lambda c: datasets.load(c, mark["uid"]))
    if mark["uid"] in deleted or row is None:
        return  # a delete may be durable before it is acknowledged
    assert row.committed_bytes >= mark["committed"] or row.ready
    content = layout.dataset_file(row.sha256)
    if mark["ready"]:
        assert row.ready
    if row.ready:
        assert hashlib.sha256(content.read_bytes()).hexdigest() == row.sha256
    elif not content.exists():
        file = UploadFile(layout.upload_file(row.uid), row.committed_bytes)
        assert file.position == row.committed_bytes, f"{row.committed_bytes} bytes committed, {file.position} there"
        file.close()


def check_deleted(store, layout, mark, deleted):
    assert store.read_now(lambda c: datasets.load(c, mark["uid"])) is None


def check_job(store, layout, mark, deleted):
    key = request_ids.RequestKey("default", mark["request"], "CreateJob", "")
    row = store.read_now(lambda c: jobs.load(c, mark["uid"]))
    assert row is not None
    assert not row.damaged
    with pytest.raises(Exception, match="belongs to another request"):
        store.read_now(lambda c: request_ids.find(c, key))


def check_events(store, marks):
    for job in {mark["job"] for mark in marks}:
        shown = {mark["seq"]: mark["sha256"] for mark in marks if mark["job"] == job}
        last = store.read_now(lambda c, job=job: jobs.span(c, job)).last_seq
        assert last >= max(shown), f"event {max(shown)} was shown, {last} are there"

        def load(connection, job=job, last=last):  # noqa: ANN202
            return events.read_after(connection, job, 0, last_seq=last, mask=events.ALL_KINDS, blocks=1000)

        found = store.read_now(load)[0]
        assert [event.seq for event in found] == list(range(1, last + 1))
        for event in found:
            content = hashlib.sha256(event.SerializeToString(deterministic=True)).hexdigest()
            assert shown.get(event.seq, content) == content, f"event {event.seq} is another one"


def check_cancel(store, layout, mark, deleted):
    assert store.read_now(lambda c: jobs.load(c, mark["uid"])).cancel_requested


CHECKS = {
    "dataset": check_dataset,
    "upload": check_upload,
    "deleted": check_deleted,
    "job": check_job,
    "cancel": check_cancel,
}


@pytest.mark.timeout(600)
def test_a_worker_loses_no_checkpoint_artifact_or_event_that_it_has_reported(record, tmp_path):
    from campaign.scripted_training import weights_after

    operations = record("worker")
    told = collections.Counter()
    for when, folder, marks in crashed(operations, WORKER_STATES, tmp_path):
        told.update(mark["kind"] for mark in marks)
        attempt, checkpoints = folder / "jobs/j/attempts/1", folder / "jobs/j/checkpoints"
        newest = 0
        for place in checkpoints.glob("step-*"):
            manifest = atomic_files.read_manifest(place)
            if manifest is not None:
                assert (place / "weights.bin").read_bytes() == weights_after(b"rows", manifest["step"]), when
                newest = max(newest, manifest["step"])
        left = journal.events_after(attempt, 0)
        assert [event.worker_seq for event in left] == list(range(1, len(left) + 1)), when
        for mark in marks:
            where = f"{when} (FINETREE_SEED={SEED}): {mark}"
            assert len(left) >= mark["seq"], where
            if mark["kind"] == "checkpoint":
                assert newest >= mark["step"], where
            elif mark["kind"] == "artifact":
                sealed = (attempt / "artifacts/adapter/finetree.json").read_bytes()
                assert hashlib.sha256(sealed).hexdigest() == mark["sha256"], where
                weights = (attempt / "artifacts/adapter/weights.bin").read_bytes()
                assert weights == weights_after(b"rows"), where
            else:
                assert left[-1].outcome.kind == worker_pb2.OUTCOME_KIND_SUCCEEDED, where
    assert set(told) == {"checkpoint", "artifact", "outcome"}
    assert MARKS == ".marks"
