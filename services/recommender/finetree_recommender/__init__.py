# SPDX-License-Identifier: Apache-2.0
"""Recommender: fine-tuning methods and recipes by rule packs, with the reasons."""
