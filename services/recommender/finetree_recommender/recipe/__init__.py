# SPDX-License-Identifier: Apache-2.0
"""Recipes: from a rule pack's tables to a complete RunSpec with the source of every value."""
