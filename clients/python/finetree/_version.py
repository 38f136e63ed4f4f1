# SPDX-License-Identifier: Apache-2.0
"""The version, written down: reading it from the package's metadata would cost a third of the import budget."""

__version__ = "0.1.0.dev1"
