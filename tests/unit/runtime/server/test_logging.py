# SPDX-License-Identifier: Apache-2.0
"""The log of a process of its own, since setting logging up changes the whole process."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import logging as stdlib, sys
from finetree_runtime.server import logging
logging.configure(sys.argv[1])
log = logging.get_logger()
log.info("job_started", job="projects/default/jobs/j", things={"a", "a"})
try:
    1 / 0
except ZeroDivisionError as error:
    log.error("failed", exc_info=error)
    stdlib.getLogger("grpc").exception("a library %s", "complains")
stdlib.getLogger("grpc").info("chatter")
sys.stderr.close()
log.error("after_the_end")
print("rich" in sys.modules, "alive")
"""


def lines(level):
    """What the program logs at a level; fails unless it lives to its last line."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM, level]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False alive\n"
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_every_line_is_one_json_object():
    started, failed, library = lines("info")
    assert (started["event"], started["level"], started["job"]) == ("job_started", "info", "projects/default/jobs/j")
    assert started["timestamp"].endswith("Z")
    assert "ZeroDivisionError" in failed["exception"]
    assert (library["event"], library["logger"], library["text"]) == ("library", "grpc", "a library complains")
    assert "ZeroDivisionError" in library["exception"]


@pytest.mark.parametrize("level", ["warning", "error"])
def test_less_important_lines_are_left_out(level):
    assert [line["event"] for line in lines(level)] == ["failed", "library"]
