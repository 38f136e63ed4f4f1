# SPDX-License-Identifier: Apache-2.0
"""The name that a data folder and its database on a server both carry, so that no other combination is used."""

import json
import os
import secrets
from pathlib import Path

from finetree_runtime.config.settings import SettingsError

from finetree_trainer.disk import sync_folder


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
        name, draft = secrets.token_hex(16), self._path.with_name(f"{self._path.name}.draft")
        try:
            with draft.open("w", encoding="utf-8") as stream:
                stream.write(json.dumps({"data_folder": name}) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(self._path)
            sync_folder(self._path.parent)
        except OSError:
            raise self._unusable() from None
        return name

    def _unusable(self) -> SettingsError:
        text = (
            f"data_dir: {self._path.name} in it cannot be read or made; look at the disk and the rights of the folder"
        )
        return SettingsError("DATA_DIR_UNUSABLE", text)
