# SPDX-License-Identifier: Apache-2.0
"""Parts of resource names."""


def project_of(name: str) -> str:
    """Project in a resource name; empty for an id alone, which is of the caller's own."""
    prefix, _, rest = name.partition("/")
    return rest.partition("/")[0] if prefix == "projects" else ""
