# SPDX-License-Identifier: Apache-2.0
"""The name that a data folder and its database on a server both carry, so that no other combination is used."""

import json
import secrets
from pathlib import Path

from finetree_data.durable_files import replace_file
from finetree_runtime.config.settings import SettingsError


class FolderMark:
    """A data folder's half of it: the file `database.json`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> str:
        """The name; "" where the folder has none yet. Raises SettingsError DATA_DIR_UNUSABLE."""
        try:
            return str(json.loads(self._path.read_text(encoding="utf-8"))["data_folder"])
        except FileNotFoundError:
            return ""
        except (OSError, ValueError, KeyError, TypeError):
            raise self._unusable() from None

    def make(self) -> str:
        """The name, given and on disk where the folder had none: the database learns it only after this.

        Only who holds the lock of the database, or of the folder, may call it. Raises SettingsError DATA_DIR_UNUSABLE.
        """
        name = self.read()
        if name:
            return name
        name = secrets.token_hex(16)
        try:
            replace_file(self._path, json.dumps({"data_folder": name}).encode() + b"\n")
        except OSError:
            raise self._unusable() from None
        return name

    def _unusable(self) -> SettingsError:
        text = (
            f"data_dir: {self._path.name} in it cannot be read or made; look at the disk and the rights of the folder"
        )
        return SettingsError("DATA_DIR_UNUSABLE", text)
