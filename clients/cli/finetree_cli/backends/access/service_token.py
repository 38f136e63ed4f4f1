# SPDX-License-Identifier: Apache-2.0
"""The token with which the services of `finetree up` call each other."""

import json
from pathlib import Path

from finetree_cli.backends.access.program import ask
from finetree_cli.backends.private_files import write_private
from finetree_cli.errors import BadInput

NAME = "finetree-up"
"""Principal of the services."""
FILE = "service-token"
ID = "service-token.json"


def service_token(access_dir: Path, data_dir: Path) -> Path:
    """Return the file with the services' token: the one of an earlier start, or a new one.

    It may read every project, for sinks, and report what runs measured: no more than whoever can read the file could
    take from the data folder that it lies in.

    Raises:
        NotAvailable: The services are not installed.
        BadInput: The access file is damaged.
    """
    file, about = data_dir / FILE, data_dir / ID
    if _active(access_dir, file, about):
        return file
    words = ("create", NAME, "--project", "*", "--role", "read", "--operator", "--expires", "never")
    made = ask(access_dir, words)
    write_private(file, f"{made['token']}\n")
    write_private(about, json.dumps({"id": made["id"]}) + "\n")
    return file


def _active(access_dir: Path, file: Path, about: Path) -> bool:
    try:
        known = json.loads(about.read_text(encoding="utf-8"))["id"] if file.exists() else ""
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if not known:
        return False
    try:
        rows = ask(access_dir, ("list",))["tokens"]
    except BadInput:
        return False  # creating one makes the file, or says what is wrong with it
    return any(row["id"] == known and row["state"] == "active" for row in rows)
