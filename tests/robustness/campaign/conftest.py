# SPDX-License-Identifier: Apache-2.0
"""Makes this folder importable as `campaign`, the trainer's harness as `trainer_harness`: they are no packages."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

HERE = Path(__file__).parent


class _Finder:
    """Finds a module of the campaign where a test imports it."""

    @staticmethod
    def find_spec(name: str, *_: object) -> ModuleSpec | None:
        if name == "campaign":
            return importlib.util.spec_from_loader(name, None, is_package=True)
        if name.startswith("campaign."):
            return importlib.util.spec_from_file_location(name, HERE / f"{name.partition('.')[2]}.py")
        if name == "trainer_harness":
            return importlib.util.spec_from_file_location(name, HERE.parents[1] / "contract/trainer/harness.py")
        return None


sys.meta_path.append(_Finder)
