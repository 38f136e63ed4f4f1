# SPDX-License-Identifier: Apache-2.0
"""Dataclasses of a rule pack."""
