# SPDX-License-Identifier: Apache-2.0
"""A machine with a configuration file, and without variables of finetree's."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _clean(monkeypatch) -> None:
    for name in [name for name in os.environ if name.startswith("FINETREE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def configure(monkeypatch, tmp_path):
    """Write the configuration file, and give its path."""
    path = tmp_path / "finetree" / "config.toml"

    def write(text: str) -> Path:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write
