# SPDX-License-Identifier: Apache-2.0
"""Checks of a running server: whether an adapter has an effect there."""
