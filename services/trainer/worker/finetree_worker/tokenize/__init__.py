# SPDX-License-Identifier: Apache-2.0
"""Rows of a dataset to tokens: reading, rendering by the chat template, encoding, and the cache of the result."""
