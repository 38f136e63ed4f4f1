# SPDX-License-Identifier: Apache-2.0
"""Versions of the libraries that may change results."""

import platform
from importlib import metadata

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "finetree-worker")
"""Distributions whose versions AttemptStarted.environment and the lineage of an artifact name."""


def library_versions() -> dict[str, str]:
    """Return the versions of LIBRARIES that are installed, and that of the interpreter as "python"."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions | {"python": platform.python_version()}
