# SPDX-License-Identifier: Apache-2.0
"""A log that a service goes on writing is moved aside, and few old ones are kept."""

import subprocess
import sys

from finetree_cli.backends import service_logs

WRITER = "import sys\nfor line in sys.stdin:\n    print(line, end='', flush=True)\n"


def test_a_growing_log_is_rotated_while_its_service_writes(tmp_path):
    log = tmp_path / "trainer.log"
    with log.open("ab") as stream:
        service = subprocess.Popen([sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=stream, text=True)

    def write(line) -> None:
        size = log.stat().st_size
        print(line, file=service.stdin, flush=True)
        while log.stat().st_size == size and service.poll() is None:
            pass

    for number in range(6):
        write(f"{number} " + "x" * 100)
        assert service_logs.rotate(log, limit=100)
        assert not service_logs.rotate(log, limit=100)
    write("after")
    service.stdin.close()
    assert service.wait() == 0
    assert log.read_text() == "after\n"
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["trainer.log", "trainer.log.1", "trainer.log.2", "trainer.log.3"]
    assert [(tmp_path / name).read_text()[0] for name in kept[1:]] == ["5", "4", "3"]


def test_a_log_that_cannot_be_moved_stays(tmp_path):
    assert not service_logs.rotate(tmp_path / "missing.log")
    log = tmp_path / "a.log"
    log.write_text("x" * 200)
    for name in ("a.log.2", "a.log.3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    assert not service_logs.rotate(log, limit=100)
    assert log.read_text() == "x" * 200
