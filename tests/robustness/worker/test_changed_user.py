# SPDX-License-Identifier: Apache-2.0
"""A process of root becomes the user of the workers: there is no way back, and what is closed to that user stays so."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")

SCRIPT = Path(__file__).with_name("changed_user.py")
USER, GROUP = 54321, 54322


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Files of several owners, in a folder that everybody may pass through: pytest's own are closed to other users."""
    with tempfile.TemporaryDirectory(prefix="finetree-user-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        for file, mode in (("secret", 0o600), ("lent", 0o640), ("open", 0o644)):
            (folder / file).write_text(file)
            (folder / file).chmod(mode)
        os.chown(folder / "lent", 0, GROUP)
        (folder / "model").mkdir()
        for file, mode in (("config.json", 0o644), ("model.safetensors", 0o600)):
            (folder / "model" / file).write_text("{}")
            (folder / "model" / file).chmod(mode)
        (folder / "closed").mkdir(0o700)
        yield folder


@pytest.fixture(scope="module", params=["alone", "confined"])
def found(place: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    places = [str(place / name) for name in ("secret", "lent", "open", "model", "closed")]
    command = (sys.executable, str(SCRIPT), str(USER), str(GROUP), request.param, *places)
    child = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert child.returncode == 0, child.stderr
    return {**json.loads(child.stdout), "alone": request.param == "alone"}


def test_it_is_that_user_alone_without_capabilities(found):
    status = dict(line.split(":\t", 1) for line in found["status"].splitlines() if ":\t" in line)
    assert status["Uid"].split() == [str(USER)] * 4
    assert status["Gid"].split() == [str(GROUP)] * 4
    assert not status["Groups"].split()
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert found["measures"]["own_user"] == "holds"
    assert (found["measures"]["files"] == "off") is found["alone"]


def test_there_is_no_way_back(found):
    assert {found[name] for name in ("become root", "take root's group", "join groups")} == {"Operation not permitted"}
    assert found["take capabilities"] == -1


def test_its_own_files_in_proc_are_its_own(found):
    # A process that has changed its user is otherwise a stranger to them, and the peak of memory is read there.
    assert found["reset its peak"] == "done"


def test_what_is_closed_to_the_user_is_closed_to_the_worker(found):
    denied = "Permission denied"
    assert found["read"] == {"secret": denied, "lent": "done", "open": "done", "model": "done", "closed": denied}
    assert found["list"]["closed"] == denied


def test_a_model_with_a_closed_file_is_refused_by_the_files_name(found):
    text = (
        f"INPUT_NOT_READABLE: 'model.safetensors' of the base model cannot be read by user {USER}, whom workers run as."
    )
    assert found["asked"]["model"] == text
    assert found["asked"]["closed"].startswith("INPUT_NOT_READABLE: 'closed' of the base model")
    assert found["asked"]["open"] == "readable"
