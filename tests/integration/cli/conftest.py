# SPDX-License-Identifier: Apache-2.0
"""The real suite on free loopback ports, as `finetree up` starts it, without a worker kept warm."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from finetree_cli.suite import Suite


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Iterator[Suite]:
    folder = tmp_path_factory.mktemp("suite")
    with Suite(folder, extra={"trainer": ("--no-prewarm",)}) as running:
        yield running


def processes_under(folder: Path) -> list[str]:
    """Command lines of the processes that were started with this folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and int(entry.name) != os.getpid():
            found.append(line)
    return found
