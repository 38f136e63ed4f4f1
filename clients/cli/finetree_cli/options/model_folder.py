# SPDX-License-Identifier: Apache-2.0
"""A model that lies in a folder of this machine: what has a config.json can be estimated, in the catalogue or not."""

import os
from collections.abc import Mapping
from pathlib import Path

from finetree_cli.errors import BadInput

CONFIG = "config.json"
_BEGINNINGS = ("./", "../", "/", "~")
"""Of what names a folder and no model: a hub id has a slash too, but none of these before it."""
_ROOT = "FINETREE_ESTIMATOR_MODEL_ROOT"
"""Variable of the estimator's setting; a program inherits it, also the recommender's own estimator."""


def model_folder(text: str | None) -> Path | None:
    """The folder that a --model names: `./folder`, or its config.json. None for the name or the hub id of a model.

    Raises:
        BadInput: There is no config.json, or its folder has no name.
    """
    if not text or not (text in (".", "..") or text.startswith(_BEGINNINGS) or Path(text).name == CONFIG):
        return None
    folder = Path(os.path.realpath(Path(text).expanduser()))
    folder = folder.parent if folder.name == CONFIG else folder
    if not (folder / CONFIG).is_file() or not folder.name:
        raise BadInput(f"--model {text}: no {CONFIG} there", remedy="name a folder that has one, or the file itself")
    return folder


def root_of(folder: Path | None) -> Mapping[str, str]:
    """Variables with which a local program reads the folder as `model.path`, by its name."""
    return {} if folder is None else {_ROOT: str(folder.parent)}


def refuse_server(folder: Path | None, *, address_given: bool) -> None:
    """Refuse to ask a server for what lies here. Raises BadInput."""
    if folder is not None and address_given:
        raise BadInput("--model: a server cannot read a folder of this machine", remedy="add --local")
