# SPDX-License-Identifier: Apache-2.0
"""Tokens of rows, counted without a tokenizer."""
