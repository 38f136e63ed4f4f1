# SPDX-License-Identifier: Apache-2.0
"""Conversion of a request to a `Run`, the input of the formulas."""
