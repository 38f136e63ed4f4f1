# SPDX-License-Identifier: Apache-2.0
"""Reads training files: detects their format and columns, converts their rows, and reports wrong rows."""
