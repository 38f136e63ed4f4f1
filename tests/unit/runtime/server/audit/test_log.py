# SPDX-License-Identifier: Apache-2.0
"""The thread that writes the audit log, with a disk that takes nothing for a while."""

import asyncio
import errno
import threading

import pytest
from finetree_cli.backends.audit.records import lines
from finetree_cli.backends.audit.verify import verify
from finetree_runtime.errors import Unavailable
from finetree_runtime.server.audit import log as audit_log
from finetree_runtime.server.audit.calls import Auditor
from finetree_runtime.server.audit.files import AuditFiles
from finetree_runtime.server.audit.log import AuditLog

WAIT = 60


class FlakyFiles(AuditFiles):
    """Files on a disk that is full while `full` is set: an append then writes some bytes and fails."""

    def __init__(self, folder) -> None:
        super().__init__(folder, 10**6)
        self.full = False
        self.tried = threading.Event()

    def _write(self, content) -> None:
        if self.full:
            super()._write(content[:-7])
            self._forget()
            self.tried.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        super()._write(content)


class Meter:
    """Keeps what is read for each page."""

    def __init__(self) -> None:
        self._reads = {}

    def gauge(self, name, _text, *, read) -> None:
        self._reads[name] = read

    total = gauge

    def read(self, name):
        return self._reads[name]()[()]


def methods(folder):
    return [line.record["method"] for line in lines(folder) if line.record.get("event") == "call"]


def test_what_was_noted_is_written_before_the_log_is_closed(tmp_path):
    log = AuditLog.at(tmp_path, 10**6)
    for number in range(100):
        log.note("call", {"method": str(number)})
    log.close()
    assert methods(tmp_path) == [str(number) for number in range(100)]
    assert all("time" in line.record for line in lines(tmp_path))


def test_records_wait_for_a_full_disk_and_each_is_written_once(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_log, "RETRY_SECONDS", 0.01)
    files = FlakyFiles(tmp_path)
    log = AuditLog(files)
    files.full = True
    for number in range(9):
        log.note("call", {"method": str(number)})
    assert files.tried.wait(WAIT)
    files.full = False
    log.close()
    assert methods(tmp_path) == [str(number) for number in range(9)]
    verdict = verify(tmp_path)
    assert verdict.fault is None
    assert verdict.torn >= 1


def test_records_beyond_what_memory_keeps_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_log, "MAX_WAITING", 3)
    monkeypatch.setattr(audit_log, "RETRY_SECONDS", 60.0)
    files = FlakyFiles(tmp_path)
    log = AuditLog(files)
    files.full = True
    log.note("call", {"method": "first"})
    assert files.tried.wait(WAIT)
    for number in range(9):
        log.note("call", {"method": str(number)})
    meter = Meter()
    Auditor(log).show(meter)
    assert meter.read("finetree_audit_waiting_records") >= 1
    files.full = False
    log.close()
    assert meter.read("finetree_audit_waiting_records") == 0
    assert meter.read("finetree_audit_lost_records_total") == 7
    assert methods(tmp_path) == ["first", "0", "1"]
    assert [line.record["count"] for line in lines(tmp_path) if line.record.get("event") == "lost"] == [7]


async def test_who_waits_for_a_record_hears_that_the_disk_is_full(tmp_path):
    files = FlakyFiles(tmp_path)
    log = AuditLog(files)
    async with asyncio.timeout(WAIT):
        await log.durable("begin", {"method": "a"})
        files.full = True
        with pytest.raises(Unavailable) as caught:
            await log.durable("begin", {"method": "b"})
        assert caught.value.reason == "AUDIT_UNAVAILABLE"
        files.full = False
        await log.durable("begin", {"method": "c"})
    await asyncio.to_thread(log.close)
    assert [line.record["method"] for line in lines(tmp_path) if line.record.get("event") == "begin"] == ["a", "c"]
    assert verify(tmp_path).fault is None
