# SPDX-License-Identifier: Apache-2.0
"""Evaluations: what is measured beside what, on which rows."""
