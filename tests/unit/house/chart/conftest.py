# SPDX-License-Identifier: Apache-2.0
"""Runs Helm once for the files of a process, and makes what they share importable: test folders are no packages."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

_NAME = "chart_objects"
_spec = importlib.util.spec_from_file_location(_NAME, Path(__file__).with_name(f"{_NAME}.py"))
assert _spec is not None
assert _spec.loader is not None
chart_objects = sys.modules[_NAME] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(chart_objects)


@pytest.fixture(scope="session")
def helm() -> dict[str, Any]:
    found: dict[str, Any] = chart_objects.rendered()
    return found


@pytest.fixture(params=chart_objects.VALUES)
def objects(request, helm) -> list[dict[str, Any]]:
    """Objects of one set of values."""
    rendered = helm["rendered"][request.param]
    assert isinstance(rendered, dict), rendered
    texts = [text for name, text in rendered.items() if not name.endswith("NOTES.txt")]
    return [each for text in texts for each in yaml.safe_load_all(text) if each]
