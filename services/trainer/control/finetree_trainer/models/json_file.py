# SPDX-License-Identifier: Apache-2.0
"""JSON files in the folders of models, which others wrote."""

import json
from pathlib import Path
from typing import Any

MAX_BYTES = 16 * 1024 * 1024
"""Largest file that is parsed; a model's config.json has a few kilobytes."""


def json_object(file: Path) -> dict[str, Any]:
    """Return the object in a file; an empty one where there is no file, or none that can be read as an object."""
    try:
        if file.stat().st_size > MAX_BYTES:
            return {}
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
