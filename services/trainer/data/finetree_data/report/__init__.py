# SPDX-License-Identifier: Apache-2.0
"""Reports on the rows of a file, made without a tokenizer."""
