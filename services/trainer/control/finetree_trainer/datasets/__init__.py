# SPDX-License-Identifier: Apache-2.0
"""Datasets: upload, validation of their rows, previews."""
