# SPDX-License-Identifier: Apache-2.0
"""Reads training files: detects their format and columns, converts their rows, and reports wrong rows.

Beside that it has the two files that a worker writes and the service reads: the journal and the log of an attempt.
"""
