# SPDX-License-Identifier: Apache-2.0
"""A process that becomes another user as a worker does, and tries to get back, and to read files.

Its arguments are the numbers of the user and the group, whether other measures are taken, and files; it prints what it
is and what became of each try, as JSON.
"""

import ctypes
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

# What is used below is imported while the process may still read it.
from finetree_api.worker.v1 import worker_pb2
from finetree_data.confinement.confine import confine
from finetree_data.confinement.policy import Policy
from finetree_worker.errors import AccessError
from finetree_worker.process.confinement import require_readable


def tried(act: Callable[[], object]) -> str:
    """Try something; return "done", or the system's name of the error."""
    try:
        act()
    except OSError as error:
        return error.strerror or "refused"
    return "done"


def asked(place: str) -> str:
    """Look at a model before a task as a worker does; return what is said of it."""
    try:
        require_readable(worker_pb2.Task(base=worker_pb2.TaskBaseModel(model_dir=place)))
    except AccessError as error:
        return f"{error.reason}: {error.message}"
    return "readable"


def main() -> None:
    """Become the user, then try."""
    user, group, alone, *places = sys.argv[1:]
    confinement = confine(
        Policy(user=int(user), group=int(group), user_alone=alone == "alone", read=tuple(places)), os.environ
    )
    capset = ctypes.CDLL(None, use_errno=True).capset
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
    found = {
        "status": Path("/proc/self/status").read_text(encoding="ascii"),
        "measures": {measure.name: measure.state for measure in confinement.measures},
        "become root": tried(lambda: os.setresuid(0, 0, 0)),
        "take root's group": tried(lambda: os.setresgid(0, 0, 0)),
        "join groups": tried(lambda: os.setgroups([0])),
        "take capabilities": capset(header, sets),
        "reset its peak": tried(lambda: Path("/proc/self/clear_refs").write_text("5", encoding="ascii")),
        "read": {
            Path(place).name: tried(lambda place=place: os.close(os.open(place, os.O_RDONLY))) for place in places
        },
        "list": {Path(place).name: tried(lambda place=place: list(Path(place).iterdir())) for place in places},
        "asked": {Path(place).name: asked(place) for place in places},
    }
    sys.stdout.write(json.dumps(found) + "\n")


main()
