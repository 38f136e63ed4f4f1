# SPDX-License-Identifier: Apache-2.0
"""Answers and jobs for people: as text, as HTML in a notebook, and live."""
