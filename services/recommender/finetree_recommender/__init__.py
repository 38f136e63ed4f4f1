# SPDX-License-Identifier: Apache-2.0
"""The recommender: fine-tuning methods and recipes by rule packs, with the reasons."""
