# SPDX-License-Identifier: Apache-2.0
"""Drawings of a pack's decision graph and of a recommendation's methods."""
