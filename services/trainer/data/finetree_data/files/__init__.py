# SPDX-License-Identifier: Apache-2.0
"""File containers: compression, text encodings, JSON, CSV, plain text and the Parquet footer."""
