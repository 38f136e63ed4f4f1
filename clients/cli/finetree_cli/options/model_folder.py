# SPDX-License-Identifier: Apache-2.0
"""A model in a folder of this machine: its config.json is enough for an estimate, in the catalog or not."""

import os
from collections.abc import Mapping
from pathlib import Path

from finetree_cli.errors import BadInput

CONFIG = "config.json"
_PREFIXES = ("./", "../", "/", "~")
"""Beginnings of a folder's name; a hub id has a slash too, but none of these before it."""
_ROOT = "FINETREE_ESTIMATOR_MODEL_ROOT"
"""Environment variable of the estimator's setting; the recommender's own estimator inherits it too."""


def model_folder(text: str | None) -> Path | None:
    """Return the folder that --model names: `./folder`, or its config.json. None for a model's name or hub id.

    Raises:
        BadInput: There is no config.json, or its folder has no name.
    """
    if not text or not (text in (".", "..") or text.startswith(_PREFIXES) or Path(text).name == CONFIG):
        return None
    folder = Path(os.path.realpath(Path(text).expanduser()))
    folder = folder.parent if folder.name == CONFIG else folder
    if not (folder / CONFIG).is_file() or not folder.name:
        raise BadInput(f"--model {text}: no {CONFIG} there", remedy="name a folder that has one, or the file itself")
    return folder


def model_root(folder: Path | None) -> Mapping[str, str]:
    """Return the environment variables with which a local process finds the folder by its name, as `model.path`."""
    return {} if folder is None else {_ROOT: str(folder.parent)}


def refuse_server(folder: Path | None, *, address_given: bool) -> None:
    """Raise BadInput if a server would be asked about a folder of this machine."""
    if folder is not None and address_given:
        raise BadInput("--model: a server cannot read a folder of this machine", remedy="add --local")
