# SPDX-License-Identifier: Apache-2.0
"""The dataclasses that a rule pack is read into."""
