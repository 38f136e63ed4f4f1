# SPDX-License-Identifier: Apache-2.0
"""Makes this folder importable as `power`, and the campaign's as `campaign`: test folders are no packages."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

ROBUSTNESS = Path(__file__).parents[1]


class _Finder:
    """Finds a module of either folder where a test imports it."""

    @staticmethod
    def find_spec(name: str, *_: object) -> ModuleSpec | None:
        package, _, module = name.partition(".")
        if package not in ("power", "campaign"):
            return None
        if not module:
            return importlib.util.spec_from_loader(name, None, is_package=True)
        return importlib.util.spec_from_file_location(name, ROBUSTNESS / package / f"{module}.py")


sys.meta_path.append(_Finder)
