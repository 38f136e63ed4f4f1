# SPDX-License-Identifier: Apache-2.0
"""Tokenized rows, their report and the micro-batches made of them."""
