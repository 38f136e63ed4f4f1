# SPDX-License-Identifier: Apache-2.0
"""Dimensions of a model as its config.json describes them."""
