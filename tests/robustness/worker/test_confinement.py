# SPDX-License-Identifier: Apache-2.0
"""A confined process tries what a hostile model would: each measure that this system has refuses what it should."""

import json
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from finetree_data.confinement.policy import VARIABLE, Policy

SCRIPT = Path(__file__).with_name("confined_process.py")
ALLOWED = (
    "read an input",
    "write a checkpoint",
    "rename it",
    "write a temporary file",
    "run a program of the system",
    "connect to the service",
    "reset its own peak",
)
REFUSED = {
    "files": {
        **{key: {"EACCES"} for key in ("read the database", "overwrite the database", "delete the database")},
        **{key: {"EACCES"} for key in ("truncate the database", "read a secret of the system", "read a file beside")},
        **{key: {"EACCES"} for key in ("write a file beside", "change an input", "change the note of its process")},
        **{key: {"EACCES"} for key in ("read by a link", "make a link", "make a pipe", "set a setting of the kernel")},
        # A rename or a link across folders with different rights is EXDEV or EACCES, whichever comes first.
        **{key: {"EACCES", "EXDEV"} for key in ("replace the database", "make a hard link to an input")},
        "run a program that it wrote": {"EACCES"},
        "read the service's environment": {"EACCES"},
    },
    "signals_and_abstract_sockets": {
        "signal the service": {"EPERM"},
        # In a network of its own there is no such socket.
        "connect to an abstract socket": {"EPERM", "ECONNREFUSED"},
    },
    "network_sockets": {
        **{key: {"EACCES"} for key in ("listen", "connect", "send a datagram", "make a raw socket")},
    },
    "system_calls": {
        **{key: {"EPERM"} for key in ("trace the service", "make a namespace", "open the database to all")},
        "take a descriptor of the service": {"EPERM"},
        "use io_uring": {"ENOSYS"},
    },
}


def prepare(root: Path) -> None:
    """Make a data folder as a trainer has it, and things beside it that a worker has no business with."""
    data = root / "data"
    for folder in ("jobs/mine/attempts/1", "jobs/other", "datasets", "models", "tokens", "workers/w/tmp", "run"):
        (data / folder).mkdir(parents=True)
    for file in ("trainer.db", "datasets/rows.jsonl", "datasets/others.jsonl", "jobs/other/weights"):
        (data / file).write_text("content")
        (data / file).chmod(0o600)
    (data / "workers/w/process.json").write_text("{}")
    (root / "secret").write_text("secret")
    (data / "datasets/link").symlink_to(root / "secret")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of each try of a process that is confined as a worker is."""
    root = tmp_path_factory.mktemp("confined")
    prepare(root)
    data = root / "data"
    abstract = f"finetree-{secrets.token_hex(8)}"
    (root / "data/datasets/abstract").write_text(abstract)
    with (
        socket.create_server(("127.0.0.1", 0)) as network,
        socket.socket(socket.AF_UNIX) as service,
        socket.socket(socket.AF_UNIX) as neighbour,
    ):
        (root / "data/datasets/port").write_text(str(network.getsockname()[1]))
        service.bind(str(data / "run/worker.sock"))
        neighbour.bind("\0" + abstract)
        for server in (service, neighbour):
            server.listen()
        policy = Policy(
            read=(str(data / "datasets"),),
            write=tuple(str(data / name) for name in ("jobs", "tokens", "models")),
            temporary=str(data / "workers/w/tmp"),
            sockets=(str(data / "run"),),
            namespace=namespaces(),
            max_file_bytes=1 << 40,
        )
        command = (sys.executable, str(SCRIPT), str(root))
        environment = {**os.environ, VARIABLE: policy.to_text()}
        child = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=120)
    assert child.returncode == 0, child.stderr
    answer = json.loads(child.stdout)
    answer["states"] = {name: (state, why) for name, state, why in answer["measures"]}
    return answer


def namespaces() -> bool:
    """Whether this system lets the user enter a network of its own: as the service finds it out."""
    command = (sys.executable, "-m", "finetree_data.confinement")
    return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 0


def require(found: dict[str, Any], measure: str) -> None:
    """Skip a test of a measure that this system does not have, for its reason."""
    state, why = found["states"][measure]
    if state not in {"holds", "partial"}:
        pytest.skip(f"{measure} is {state} here: {why}")


@pytest.mark.parametrize("name", ALLOWED)
def test_what_a_task_needs_is_done(found, name):
    assert found["tries"][name] == "done"


@pytest.mark.parametrize(("measure", "name"), [(measure, name) for measure, names in REFUSED.items() for name in names])
def test_what_no_task_needs_is_refused(found, measure, name):
    require(found, measure)
    assert found["tries"][name] in REFUSED[measure][name]


def test_everything_that_is_tried_is_judged(found):
    judged = {*ALLOWED, *(name for names in REFUSED.values() for name in names)}
    assert set(found["tries"]) == judged


def test_a_task_leaves_only_its_own_files(found):
    require(found, "files")
    narrowed = found["narrowed"]
    assert narrowed.pop("another job, before") == "done"
    assert {name for name, outcome in narrowed.items() if outcome == "done"} == {"its own job", "its rows"}
    assert narrowed["another job"] == narrowed["rows of others"] == "EACCES"
    assert found["states"]["job_files"][0] in {"holds", "partial"}


def test_privileges_are_given_up_and_limits_set(found):
    status = dict(line.split(":\t", 1) for line in found["facts"]["status"].splitlines() if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    # Root keeps CAP_DAC_READ_SEARCH, to read models of other users; others keep nothing.
    assert int(status["CapEff"], 16) in {0, 1 << 2}
    assert int(status["CapPrm"], 16) in {0, 1 << 2}
    assert found["facts"]["core"] == 0
    assert 0 < found["facts"]["file"] <= 1 << 40
    assert found["facts"]["oom"] >= 500


def test_a_process_that_must_be_confined_and_cannot_be_ends():
    program = (
        "from finetree_data.confinement import confine, landlock\n"
        "from finetree_data.confinement.policy import Policy\n"
        "landlock.abi = lambda: 0\n"
        "try: confine.confine(Policy(required=True))\n"
        "except confine.ConfinementError as error: print(error)\n"
        "else: print('went on')\n"
    )
    child = subprocess.run((sys.executable, "-c", program), check=False, capture_output=True, text=True, timeout=60)
    assert child.stdout == "files: this kernel has no Landlock, or it is off\n", child.stderr
