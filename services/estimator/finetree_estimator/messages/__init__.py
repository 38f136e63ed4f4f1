# SPDX-License-Identifier: Apache-2.0
"""Conversion of domain values to messages of the contract."""
